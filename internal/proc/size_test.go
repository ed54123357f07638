package proc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What CheckSize refuses is what the kernel refuses, apart from the few KiB that
// it sets aside.
func TestCheckSize(t *testing.T) {
	t.Parallel()
	longest := 32*os.Getpagesize() - 1
	x := func(n int) string { return strings.Repeat("x", n) }
	many := func(n int) (list []string) {
		for i := 0; n > 0; i++ {
			s := fmt.Sprintf("V%d=%s", i, x(min(n, 100_000)))
			list, n = append(list, s), n-len(s)-9
		}
		return list
	}
	for _, test := range []struct {
		name      string
		args, env []string
		want      string
	}{
		{"short", []string{"true"}, nil, ""},
		{"longest argument", []string{"true", x(longest)}, nil, ""},
		{"argument", []string{"true", x(longest + 1)}, nil, "131072 bytes, more than the 131071 that Linux allows in one argument: ADVICE"},
		{"longest variable", []string{"true"}, []string{"V=" + x(longest-2)}, ""},
		{"variable", []string{"true"}, []string{"V=" + x(longest-1)}, "the variable V has 131072 bytes, more than the 131071 that Linux allows in one: put its value in a file"},
		{"just fits", []string{"true"}, many(sizeLimit() - 200), ""},
		{"all arguments", append([]string{"true"}, many(sizeLimit()+8<<10)...), nil, "together more than the"},
		{"whole environment", []string{"true"}, many(sizeLimit() + 8<<10), "together more than the"},
		{"both", append([]string{"true"}, many(sizeLimit()/2)...), many(sizeLimit()/2 + 8<<10), "together more than the"},
	} {
		err := CheckSize(test.args, test.env, "ADVICE")
		if text := fmt.Sprint(err); test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(text, test.want)) {
			t.Errorf("%s: got error %v, expected %q", test.name, err, test.want)
		}
		cmd := exec.Command(test.args[0], test.args[1:]...)
		cmd.Env = append([]string{}, test.env...)
		if started := cmd.Run(); errors.Is(started, unix.E2BIG) != (err != nil) {
			t.Errorf("%s: the kernel says %v", test.name, started)
		}
	}
}

// The limit for all strings depends on that for the stack. The test starts itself
// under other limits.
func TestSizeLimit(t *testing.T) {
	if os.Getenv("TEST_STACK") != "" {
		fmt.Println(sizeLimit())
		return
	}
	t.Parallel()
	for kibibytes, want := range map[string]int{"256": 128 << 10, "2048": 512 << 10, "8192": 2 << 20} {
		cmd := exec.Command("sh", "-c", "ulimit -S -s "+kibibytes+` && exec "$0" -test.run='^TestSizeLimit$'`, os.Args[0])
		cmd.Env = append(os.Environ(), "TEST_STACK=1")
		out, err := cmd.CombinedOutput()
		var got int
		fmt.Sscan(string(out), &got)
		if err != nil || got < want-8<<10 || got > want {
			t.Errorf("with a stack of %s KiB: got %d, expected %d: %v", kibibytes, got, want, err)
		}
	}
}
