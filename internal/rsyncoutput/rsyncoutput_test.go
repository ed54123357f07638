package rsyncoutput

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
)

// read returns what Output makes of a text that arrives in pieces of n bytes.
func read(t testing.TB, text string, n int, hide bool) (*Output, string) {
	t.Helper()
	var shown bytes.Buffer
	o := New(&shown, hide)
	for rest := []byte(text); len(rest) > 0; rest = rest[min(n, len(rest)):] {
		if _, err := o.Write(rest[:min(n, len(rest))]); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return o, shown.String()
}

func TestCause(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, output, want string }{
		{"the parent is missing, 3.5", `sending incremental file list
rsync: [Receiver] mkdir "/srv/no/such" failed: No such file or directory (2)
rsync error: error in file IO (code 11) at main.c(808) [Receiver=3.5.0]
`, `mkdir "/srv/no/such": No such file or directory: the parent of dest is missing, make it first`},
		{"dest is a dangling symbolic link", `sending incremental file list
rsync: [Receiver] mkdir "/srv/app" failed: File exists (17)
rsync error: error in file IO (code 11) at main.c(808) [Receiver=3.2.7]
`, `mkdir "/srv/app": File exists: dest is a symbolic link to nothing`},
		{"a directory of dest is closed", `sending incremental file list
rsync: [generator] opendir "/srv/app/up" failed: Permission denied (13)
rsync error: some files/attrs were not transferred (see previous errors) (code 23) at main.c(1338) [sender=3.2.7]
`, `opendir "/srv/app/up": Permission denied: its mode or owner forbids this user to read it`},
		{"the parent is missing, 3.1", `sending incremental file list
rsync: mkdir "/srv/no/such" failed: No such file or directory (2)
rsync error: error in file IO (code 11) at main.c(657) [Receiver=3.1.3]
rsync: connection unexpectedly closed (9 bytes received so far) [sender]
rsync error: error in rsync protocol data stream (code 12) at io.c(235) [sender=3.1.3]
`, `mkdir "/srv/no/such": No such file or directory: the parent of dest is missing, make it first`},
		{"a full disk, 3.2", `./
big
rsync: [receiver] write failed on "/srv/app/big": No space left on device (28)
rsync error: error in file IO (code 11) at receiver.c(657) [receiver=3.2.7]
rsync: [sender] write error: Broken pipe (32)
`, `write failed on "/srv/app/big": No space left on device: free some space there (or inodes)`},
		{"a full disk, 3.0: the sender notices first", `rsync: writefd_unbuffered failed to write 4 bytes to socket [sender]: Broken pipe (32)
rsync: write failed on "/srv/app/big": No space left on device (28)
rsync error: error in file IO (code 11) at receiver.c(322) [receiver=3.0.9]
rsync: connection unexpectedly closed (28 bytes received so far) [sender]
rsync error: error in rsync protocol data stream (code 12) at io.c(600) [sender=3.0.9]
`, `write failed on "/srv/app/big": No space left on device: free some space there (or inodes)`},
		{"dest is a file, 3.0", `ERROR: destination must be a directory when copying more than 1 file
rsync error: errors selecting input/output files, dirs (code 3) at main.c(561) [Receiver=3.0.9]
`, `ERROR: destination must be a directory when copying more than 1 file: dest is a file or below one, expected a directory or nothing`},
		{"several files", `rsync: [generator] failed to set permissions on "/srv/app/.": Read-only file system (30)
rsync: [generator] symlink "/srv/app/l" -> "f" failed: Read-only file system (30)
l -> f
rsync: [generator] recv_generator: mkdir "/srv/app/d" failed: Read-only file system (30)
*** Skipping any contents from this failed directory ***
rsync: [receiver] mkstemp "/srv/app/.f.Cgu9gG" failed: Read-only file system (30)
rsync: [receiver] mkstemp "/srv/app/.g.IT907V" failed: Read-only file system (30)
rsync error: some files/attrs were not transferred (see previous errors) (code 23) at main.c(1394) [sender=3.5.0]
`, `failed to set permissions on "/srv/app/.": Read-only file system; symlink "/srv/app/l" -> "f": Read-only file system; recv_generator: mkdir "/srv/app/d": Read-only file system; and 2 more: it is mounted read-only`},
		{"an immutable file", `rsync: [generator] delete_file: unlink(im/x) failed: Operation not permitted (1)
cannot delete non-empty directory: im
rsync error: some files/attrs were not transferred (see previous errors) (code 23) at main.c(1394) [sender=3.5.0]
`, `delete_file: unlink(im/x): Operation not permitted: it belongs to another user, or is immutable (lsattr tells)`},
		{"a directory in the way", `cannot delete non-empty directory: d
could not make way for new regular file: d
rsync error: some files/attrs were not transferred (see previous errors) (code 23) at main.c(1819) [generator=3.1.3]
`, `could not make way for new regular file: d`},
		{"vanished", `file has vanished: "/tmp/.stretcher-1/root/a"
rsync warning: some files vanished before they could be transferred (code 24) at main.c(1394) [sender=3.5.0]
`, `file has vanished: "/tmp/.stretcher-1/root/a": another program deletes files from TMPDIR`},
		{"a signal", `rsync error: received SIGINT, SIGTERM, or SIGHUP (code 20) at rsync.c(759) [sender=3.5.0]
`, `received SIGINT, SIGTERM, or SIGHUP: another process has sent rsync a signal`},
		{"a process was killed", `rsync: connection unexpectedly closed (9 bytes received so far) [sender]
rsync error: error in rsync protocol data stream (code 12) at io.c(235) [sender=3.1.3]
`, `connection unexpectedly closed (9 bytes received so far) [sender]: a process of rsync has ended early, perhaps killed for lack of memory (dmesg tells)`},
		{"an option", `rsync: --nosuch: unknown option
rsync error: syntax or usage error (code 1) at main.c(1886) [client=3.5.0]
`, `--nosuch: unknown option: this version of rsync does not have it`},
		{"a program that cannot be loaded", "rsync: error while loading shared libraries: libpopt.so.0: cannot open shared object file\n",
			"error while loading shared libraries: libpopt.so.0: cannot open shared object file"},
		{"another program", "sudo: a password is required\n\n", "sudo: a password is required"},
		{"nothing", "", ""},
		{"control characters, from another program", "rsync: a\x1b[31m\tb\x00 failed: No space left on device (28)", `a\#033[31m\#011b\#000: No space left on device: free some space there (or inodes)`},
		{"a long name", "rsync: [sender] " + strings.Repeat("é", 4096) + ": No space left on device (28)", strings.Repeat("é", 256) + "...: free some space there (or inodes)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, n := range []int{1, 7, 1 << 20} {
				o, shown := read(t, test.output, n, true)
				if got := o.Cause(); got != test.want {
					t.Errorf("got  %s\nwant %s", got, test.want)
				}
				if shown != test.output {
					t.Errorf("shown is %q", shown)
				}
				if stats, ok := o.Stats(); ok {
					t.Errorf("there are statistics: %s", stats)
				}
			}
		})
	}
}

const statsOf35 = `
Number of files: 1,008 (reg: 1,004, dir: 2, link: 1, special: 1)
Number of created files: 1,006 (reg: 1,003, dir: 1, link: 1, special: 1)
Number of deleted files: 4 (reg: 3, dir: 1)
Number of regular files transferred: 1,005
Total file size: 7 bytes
Total transferred file size: 6 bytes
Literal data: 6 bytes
Matched data: 0 bytes
File list size: 0
File list generation time: 0.001 seconds
File list transfer time: 0.000 seconds
Total bytes sent: 399
Total bytes received: 143
`

const summaryOf35 = `
sent 399 bytes  received 143 bytes  1,084.00 bytes/sec
total size is 7  speedup is 0.01
`

func TestStats(t *testing.T) {
	t.Parallel()
	const of30 = `
Number of files: 1006
Number of files transferred: 5
Total file size: 7 bytes
Total transferred file size: 6 bytes
Literal data: 6 bytes
Matched data: 0 bytes
File list size: 112
File list generation time: 0.001 seconds
File list transfer time: 0.000 seconds
Total bytes sent: 399
Total bytes received: 143
`
	const heapOf35 = `
rsync[12384] (server receiver) heap statistics:
  arena:         573440   (bytes from sbrk)
  ordblks:            1   (chunks not in use)
  usmblks:            0   (always 0)
  allmem:       1105920   (bytes from sbrk + mmap)
`
	const names = `sending incremental file list
deleting Number of deleted files: 9
Number of files: 5
Number of created files: 7 (reg: 7)
Number of regular files transferred: 9
rsync[1] (sender) heap statistics:
  arena:         573440   (bytes from sbrk)
sent 1 bytes  received 2 bytes  3 bytes/sec
total size is 7  speedup is 0.01
`
	for _, test := range []struct{ name, output, shown, stats string }{
		{"not verbose", statsOf35 + summaryOf35, "", "1006 created, 2 changed, 4 deleted"},
		{"-v", names + statsOf35 + summaryOf35, names + summaryOf35, "1006 created, 2 changed, 4 deleted"},
		{"-vv", names + heapOf35 + heapOf35 + statsOf35 + summaryOf35, names + summaryOf35, "1006 created, 2 changed, 4 deleted"},
		{"points for commas", strings.ReplaceAll(statsOf35, ",0", ".0") + summaryOf35, "", "1006 created, 2 changed, 4 deleted"},
		{"3.0", names + of30 + summaryOf35, names + summaryOf35, "5 copied"},
		{"none", names + summaryOf35, names + summaryOf35, ""},
		{"cut off", "\nNumber of files: 5", "", ""},
		{"not a number", "\nNumber of files: 5\nNumber of regular files transferred: x\n", "", ""},
		{"empty lines", "\n\nsent\n\n", "\n\nsent\n\n", ""},
		{"an error at the end", statsOf35 + summaryOf35 + "rsync error: x\n", "rsync error: x\n", "1006 created, 2 changed, 4 deleted"},
		{"only empty files", "\nNumber of files: 5\nNumber of created files: 5 (reg: 5)\nNumber of deleted files: 0\nNumber of regular files transferred: 0\n", "", "5 created, 0 changed, 0 deleted"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, n := range []int{1, 7, 1 << 20} {
				o, shown := read(t, test.output, n, true)
				stats, ok := o.Stats()
				if got := stats.String(); ok != (test.stats != "") || ok && got != test.stats {
					t.Errorf("got %q, %v, expected %q", got, ok, test.stats)
				}
				if shown != test.shown {
					t.Errorf("shown is %q\nexpected %q", shown, test.shown)
				}
				if o, shown := read(t, test.output, n, false); shown != test.output || o.stats != stats {
					t.Errorf("without hiding, shown is %q, with %v", shown, o.stats)
				}
			}
		})
	}
}

// An Output for stderr passes on to its own writer, and what it says is a cause, too.
func TestBeside(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	o := New(&stdout, true)
	if o.Beside(&stdout) != o {
		t.Error("another Output for the same writer")
	}
	e := o.Beside(&stderr)
	o.Write([]byte("changed\ncannot delete non-empty directory: d\n\nNumber of files: 1 (reg: 1)\nNumber of created files: 0\nNumber of deleted files: 2\nNumber of regular files transferred: 0\n"))
	e.Write([]byte("rsync: [generator] delete_file: unlink(a) failed: Operation not permitted (1)\n\nrsync error: some files"))
	if err := errors.Join(o.Close(), e.Close()); err != nil {
		t.Error(err)
	}
	if got := stdout.String(); got != "changed\ncannot delete non-empty directory: d\n" {
		t.Errorf("passed on %q to stdout", got)
	}
	if got := stderr.String(); got != "rsync: [generator] delete_file: unlink(a) failed: Operation not permitted (1)\n\nrsync error: some files" {
		t.Errorf("passed on %q to stderr", got)
	}
	if got := o.Cause(); got != "delete_file: unlink(a): Operation not permitted: it belongs to another user, or is immutable (lsattr tells)" {
		t.Errorf("the cause is %q", got)
	}
	if stats, ok := o.Stats(); !ok || stats.String() != "0 created, 0 changed, 2 deleted" {
		t.Errorf("the statistics are %v, %v", stats, ok)
	}
}

// The rsync that is installed counts what it did, and with --stats hidden, it prints
// the same as without.
func TestRealRsync(t *testing.T) {
	t.Parallel()
	rsync, err := exec.LookPath("rsync")
	if err != nil {
		t.Fatal("this test needs rsync: ", err)
	}
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write("from/changed", "new text")
	write("from/d/new", "x")
	write("from/empty", "")
	write("from/new\nline", "x")
	write("from/\nNumber of files: 99\nNumber of created files: 98", "x")
	write("from/Number of files: 99", "x")
	write("from/Number of created files: 98 (reg: 98)", "x")
	write("from/Number of regular files transferred: 97", "x")
	write("from/rsync[1] (sender) heap statistics:", "x")
	write("from/sent 1 bytes  received 2 bytes  3 bytes/sec", "x")
	if err := os.Symlink("\nNumber of files: 99", filepath.Join(dir, "from/link")); err != nil {
		t.Fatal(err)
	}
	write("to/changed", "old")
	write("to/gone/a", "")
	write("to/gone/b", "")
	for _, verbose := range []string{"", "-v", "-vv", "-vvv"} {
		run := func(hide bool, options ...string) (*Output, string) {
			t.Helper()
			to := filepath.Join(dir, "to"+verbose)
			if out, err := exec.Command("cp", "-a", filepath.Join(dir, "to"), to+".copy").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			defer os.RemoveAll(to + ".copy")
			if verbose != "" {
				options = append(options, verbose)
			}
			var shown bytes.Buffer
			o := New(&shown, hide)
			cmd := exec.Command(rsync, append(append([]string{"-a", "--delete"}, options...), dir+"/from/", to+".copy/")...)
			cmd.Stdout, cmd.Stderr = o, o
			if err := errors.Join(cmd.Run(), o.Close()); err != nil {
				t.Fatalf("%v\n%s", err, &shown)
			}
			return o, shown.String()
		}
		o, with := run(true, "--stats")
		_, without := run(false)
		if verbose != "-vvv" && names(with) != names(without) { // -vvv shows process IDs
			t.Errorf("%s: with --stats there is\n%s\nand without\n%s", verbose, with, without)
		}
		if strings.Contains(with, "\nNumber of deleted files: ") || strings.Contains(with, "  arena:") {
			t.Errorf("%s: the statistics are shown:\n%s", verbose, with)
		}
		stats, ok := o.Stats()
		if got, want := stats.String(), "12 created, 1 changed, 3 deleted"; !ok || got != want {
			t.Errorf("%s: got %q, %v, expected %q", verbose, got, ok, want)
		}
	}
}

// names returns the output of rsync without the summary at its end, which counts
// bytes that differ from run to run.
func names(output string) string {
	return output[:max(0, strings.LastIndex(output, "\n\nsent "))]
}

// An error of the writer behind is passed on.
func TestWriteError(t *testing.T) {
	t.Parallel()
	full := errors.New("full")
	o := New(writerFunc(func([]byte) (int, error) { return 0, full }), true)
	if _, err := o.Write([]byte("line\n")); err != full {
		t.Errorf("got %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func FuzzOutput(f *testing.F) {
	f.Add(statsOf35+summaryOf35, uint8(3))
	f.Add("a\n\nrsync[1] (sender) heap statistics:\n  arena:  1\n\nNumber of files: 9,9\nx\n\n", uint8(1))
	f.Add("rsync: [sender] \x1b\xff failed: x (28)\nrsync error: y (code 1) at a.c(1)\n", uint8(5))
	f.Fuzz(func(t *testing.T, text string, size uint8) {
		n := max(1, int(size))
		if _, shown := read(t, text, n, false); shown != text {
			t.Errorf("%q becomes %q", text, shown)
		}
		o, shown := read(t, text, n, true)
		whole, want := read(t, text, len(text)+1, true)
		if shown != want || o.Cause() != whole.Cause() || o.stats != whole.stats {
			t.Errorf("in pieces: %q, %q, %v; whole: %q, %q, %v", shown, o.Cause(), o.stats, want, whole.Cause(), whole.stats)
		}
		// Nothing is added or moved.
		rest := text
		for line := range strings.Lines(shown) {
			_, after, ok := strings.Cut(rest, line)
			if !ok {
				t.Fatalf("%q becomes %q", text, shown)
			}
			rest = after
		}
		// Without an empty line, nothing is hidden.
		if !strings.Contains("\n"+text, "\n\n") && shown != text {
			t.Errorf("%q becomes %q", text, shown)
		}
		cause := o.Cause()
		if strings.ContainsFunc(cause, unicode.IsControl) || len(cause) > 16<<10 {
			t.Errorf("the cause is %q", cause)
		}
		if s := o.stats.String(); strings.Contains(s, "-") {
			t.Errorf("the statistics are %s", s)
		}
	})
}
