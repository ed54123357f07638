package progress

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fujiwara/stretcher/internal/ptytest"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// lines collects what is logged.
type lines struct {
	mu   sync.Mutex
	list []string
}

func (l *lines) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, line)
}

func (l *lines) get() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.list...)
}

func TestLog(t *testing.T) {
	t.Parallel()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if unixfs.IsTerminal(null) {
		t.Errorf("%s is a terminal", os.DevNull)
	}
	logged := &lines{}
	step := Reporter{Every: time.Millisecond, Log: logged.add, Stderr: null}.Start("Extracting", func() (int64, int64) { return 4, 1 << 20 })
	step.AddFiles(2)
	step.AddBytes(512 << 10)
	const want = "Extracting: 512 KiB of 1.0 MiB (50%), 2 of 4 files, 0s"
	for deadline := time.Now().Add(10 * time.Second); len(logged.get()) < 3; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("logged only %q", logged.get())
		}
	}
	step.End()
	ended := logged.get()
	if last := ended[len(ended)-1]; last != want {
		t.Errorf("logged %q, want %q", last, want)
	}
	time.Sleep(5 * time.Millisecond)
	if got := logged.get(); len(got) != len(ended) {
		t.Errorf("logged %q after the end", got[len(ended):])
	}
}

// What ends before a line is due is not mentioned, neither in the log nor on a
// terminal.
func TestShort(t *testing.T) {
	t.Parallel()
	logged := &lines{}
	Reporter{Log: logged.add}.Start("Extracting", func() (int64, int64) { t.Error("counted"); return 0, 0 }).End()
	if got := logged.get(); len(got) > 0 {
		t.Errorf("logged %q", got)
	}
	master, terminal := ptytest.Open(t)
	Reporter{Stderr: terminal}.Start("Extracting", nil).End()
	fmt.Fprint(terminal, "end")
	if got := ptytest.Read(t, master, "end", 1); got != "end" {
		t.Errorf("the terminal got %q", got)
	}
}

// Each line overwrites the one before, and the last one is erased. Other lines are
// told how to erase it, too.
func TestTerminal(t *testing.T) {
	master, terminal := ptytest.Open(t)
	defer func(f *os.File) { os.Stderr = f }(os.Stderr)
	os.Stderr = terminal
	if got := Clear(); got != "" {
		t.Errorf("erased by %q before there was anything", got)
	}
	step := Reporter{}.Start("Extracting", func() (int64, int64) { return 0, 10_000 })
	step.AddBytes(2_500)
	seen := ptytest.Read(t, master, "\r", 2)
	if got := Clear(); got != "\x1b[K" {
		t.Errorf("erased by %q", got)
	}
	step.End()
	if got := Clear(); got != "" {
		t.Errorf("erased by %q after the end", got)
	}
	fmt.Fprint(terminal, "end")
	seen += ptytest.Read(t, master, "end", 1)
	if want := `^(Extracting: 2\.4 KiB of 9\.8 KiB \(25%\), \d+s\x1b\[K\r)+\x1b\[Kend$`; !regexp.MustCompile(want).MatchString(seen) {
		t.Errorf("the terminal got %q, want %s", seen, want)
	}
}

func TestString(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		files, bytes, totalFiles, totalBytes int64
		want                                 string
	}{
		{0, 0, 0, 0, "1m30s"},
		{7, 0, 0, 0, "7 files, 1m30s"},
		{7, 0, 10, 0, "7 of 10 files (70%), 1m30s"},
		{0, 0, 10, 20, "0 B of 20 B (0%), 0 of 10 files, 1m30s"},
		{7, 6 << 30, 10, 8 << 30, "6.0 GiB of 8.0 GiB (75%), 7 of 10 files, 1m30s"},
		{1, 1 << 61, 1, 1 << 62, "2.0 EiB of 4.0 EiB (50%), 1 of 1 files, 1m30s"},
	} {
		s := &Step{total: func() (int64, int64) { return test.totalFiles, test.totalBytes }, begin: time.Now().Add(-90 * time.Second)}
		s.AddFiles(int(test.files))
		s.AddBytes(test.bytes)
		if got := s.String(); got != test.want {
			t.Errorf("%+v: got %s", test, got)
		}
	}
	var none *Step
	none.AddFiles(1)
	none.AddBytes(1)
	if got := strings.Contains(Bytes(5, -1), "of"); got {
		t.Errorf("an unknown total is shown: %s", Bytes(5, -1))
	}
}

// With LogOnly, a terminal is nothing special.
func TestLogOnly(t *testing.T) {
	LogOnly(true)
	defer LogOnly(false)
	master, terminal := ptytest.Open(t)
	logged := &lines{}
	stop := Reporter{Every: time.Millisecond, Log: logged.add, Stderr: terminal}.Show("Extracting", func() string { return "x" })
	for deadline := time.Now().Add(10 * time.Second); len(logged.get()) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is logged")
		}
	}
	stop()
	fmt.Fprint(terminal, "end")
	if got := ptytest.Read(t, master, "end", 1); got != "end" {
		t.Errorf("the terminal got %q", got)
	}
}
