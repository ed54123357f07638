package fetch

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestProgressInLog(t *testing.T) {
	t.Parallel()
	for _, known := range []bool{true, false} {
		content := random(40, 4000)
		const want = "Downloading: 1000 B"
		record := &recorder{}
		waitForLog := func() {
			deadline := time.Now().Add(10 * time.Second)
			for !strings.Contains(record.String(), want) && time.Now().Before(deadline) {
				time.Sleep(time.Millisecond)
			}
		}
		var f *faulty
		f = serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 0 { // so that the second request begins with so much
				f.cut(500, w, r)
				return true
			}
			if known {
				f.serve(&limited{w, 500, waitForLog}, r)
			} else {
				w.WriteHeader(http.StatusOK)
				(&limited{w, 1000, waitForLog}).Write(content)
			}
			return true
		})
		if !known {
			f.change(content, "") // so that it starts over
		}
		o := quick(1)
		o.progressEvery = 10 * time.Millisecond
		_, logged, err := download(t, o.logTo(record), f.URL)
		if err != nil {
			t.Fatal(err)
		}
		line := want + `, [0-9.]+ [KM]?i?B/s\n`
		if known {
			line = want + ` of 3\.9 KiB \(25%\), [0-9.]+ [KM]?i?B/s, [0-9a-z]+ left\n`
		}
		if !regexp.MustCompile(line).MatchString(logged) {
			t.Errorf("log without %s:\n%s", line, logged)
		}
		if end := `Downloaded 4000 bytes \(3\.9 KiB\) in [0-9.]+m?s, [0-9.]+ [KM]?i?B/s, retries: 1\n$`; !regexp.MustCompile(end).MatchString(logged) {
			t.Errorf("log without %s:\n%s", end, logged)
		}
	}
}

// openTerminal opens a pseudoterminal and returns its two ends.
func openTerminal(t *testing.T) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("this system has no terminals: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return master, terminal
}

func TestProgressOnTerminal(t *testing.T) {
	t.Parallel()
	master, terminal := openTerminal(t)
	var p progress
	p.size.Store(10_000)
	p.done.Store(2_500)
	stop := p.show(Options{}.withDefaults(), terminal)

	var seen string
	buf := make([]byte, 1000)
	for strings.Count(seen, "\r") < 2 {
		n, err := master.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		seen += string(buf[:n])
	}
	stop()
	fmt.Fprint(terminal, "end")
	for !strings.HasSuffix(seen, "end") {
		n, err := master.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		seen += string(buf[:n])
	}
	// Each line overwrites the one before, and the last one is erased.
	if want := `^(2\.4 KiB of 9\.8 KiB \(25%\), 0 B/s\x1b\[K\r)+\x1b\[Kend$`; !regexp.MustCompile(want).MatchString(seen) {
		t.Errorf("the terminal got %q, want %s", seen, want)
	}
}

func TestProgressStatus(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		size, done, received int64
		want                 string
	}{
		{-1, 0, 0, "0 B, 0 B/s"},
		{-1, 6 << 20, 2000 << 20, "6.0 MiB, 2.0 MiB/s"},
		{0, 0, 0, "0 B, 0 B/s"},
		{12 << 20, 6 << 20, 2000 << 20, "6.0 MiB of 12 MiB (50%), 2.0 MiB/s, 3s left"},
		{12 << 20, 12 << 20, 2000 << 20, "12 MiB of 12 MiB (100%), 2.0 MiB/s, 0s left"},
		{1 << 62, 1, 1, "1 B of 4.0 EiB (0%), 0 B/s"},
	} {
		p := progress{start: time.Now().Add(-1000 * time.Second)}
		p.size.Store(test.size)
		p.done.Store(test.done)
		p.received.Store(test.received)
		if got := p.status(); got != test.want {
			t.Errorf("%+v: got %s", test, got)
		}
	}
}
