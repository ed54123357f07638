package destcheck

import (
	"io/fs"
	"strings"
	"testing"
)

func TestParseMode(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		mode    fs.FileMode
		warning string
	}{
		"0755":     {0o755, ""},
		"0o755":    {0o755, ""},
		"07_55":    {0o755, ""},
		"493":      {0o755, ""},
		"511":      {0o777, ""},
		"504":      {0o770, ""},
		"457":      {0o711, ""},
		"7":        {7, ""},
		"0":        {0, ""},
		"01777":    {0o1777, ""},
		"0x1ed":    {0o755, ""},
		"755":      {0o1363, "dest_mode 755 is a decimal number and means 01363; write 0755 if that was meant"},
		"2755":     {0o5303, "dest_mode 2755 is a decimal number and means 05303; write 02755 if that was meant"},
		"1777":     {0o3361, "dest_mode 1777 is a decimal number and means 03361; write 01777 if that was meant"},
		"500":      {0o764, "dest_mode 500 is a decimal number and means 0764; write 0500 if that was meant"},
		"440":      {0o670, "dest_mode 440 is a decimal number and means 0670; write 0440 if that was meant"},
		"75":       {0o113, "dest_mode 75 is a decimal number and means 0113; write 075 if that was meant"},
		"700":      {0o1274, "dest_mode 700 is a decimal number and means 01274; write 0700 if that was meant"},
		"0b111101": {0o75, ""},
	} {
		mode, warning, err := ParseMode(text, false)
		if mode != want.mode || warning != want.warning || err != nil {
			t.Errorf("%s: got %#o, %q and %v, expected %#o and %q", text, uint32(mode), warning, err, uint32(want.mode), want.warning)
		}
	}
	for _, text := range []string{"", "rwx", "0888", "0.5", "1e3", "-1", "010000", "9999", "99999999999999999999", "0755 ", "a\x1b\n"} {
		if _, _, err := ParseMode(text, false); err == nil || !strings.HasPrefix(err.Error(), "dest_mode \"") || strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func TestModeBits(t *testing.T) {
	t.Parallel()
	for mode, want := range map[fs.FileMode]fs.FileMode{
		0:                             0,
		0o755:                         0o755,
		0o7777:                        0o7777,
		fs.ModeSetgid | 0o755:         0o2755,
		fs.ModeSticky | 0o777:         0o1777,
		fs.ModeSetuid | 0o4755:        0o4755,
		fs.ModeDir | 0o711:            0o711,
		fs.ModeDir | fs.ModeSetgid:    0o2000,
		0o10000:                       0,
		0o40755:                       0,
		fs.ModeSymlink | 0o777:        0,
		fs.ModeNamedPipe | 0o644:      0,
		fs.ModeDir | fs.ModeTemporary: 0,
	} {
		got, err := ModeBits(mode)
		if got != want || (err != nil) != (want == 0 && mode != 0) {
			t.Errorf("%#o: got %#o and %v, expected %#o", uint32(mode), uint32(got), err, uint32(want))
		}
	}
}

func FuzzParseMode(f *testing.F) {
	for _, seed := range []string{"0755", "755", "0x1ed", "1e3", "-0", "0_7"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		mode, warning, err := ParseMode(text, false)
		if mode > 0o7777 || err != nil && (mode != 0 || warning != "") || warning != "" && mode == 0 {
			t.Errorf("%q: got %#o, %q and %v", text, uint32(mode), warning, err)
		}
	})
}
