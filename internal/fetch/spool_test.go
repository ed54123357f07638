package stretcher

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
)

func TestSpoolReader(t *testing.T) {
	s := newSpool(&memory{}, 0)
	put := func(text string, offset, ready int64) {
		t.Helper()
		if err := s.writeAt([]byte(text), offset); err != nil {
			t.Fatal(err)
		}
		s.arrived(ready)
	}
	r := s.reader(false)
	read := func(n int) string {
		t.Helper()
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	put("cd", 2, 0) // which nobody may read yet
	put("ab", 0, 4)
	if got := read(3); got != "abc" {
		t.Errorf("got %q", got)
	}
	waited := make(chan string)
	go func() { waited <- read(3) }()
	put("ef", 4, 6)
	if got := <-waited; got != "def" {
		t.Errorf("got %q", got)
	}

	go func() {
		_, err := r.Read(make([]byte, 1))
		waited <- fmt.Sprint(err)
	}()
	if err := s.restart(); err != nil {
		t.Fatal(err)
	}
	if got := <-waited; got != errRestarted.Error() {
		t.Errorf("error %s", got)
	}
	put("other", 0, 5)
	if _, err := r.Read(make([]byte, 1)); err != errRestarted {
		t.Errorf("a reader from before: error %v", err)
	}
	r = s.reader(false)
	if got := read(5); got != "other" {
		t.Errorf("got %q", got)
	}
	broken := errors.New("broken")
	s.end(broken)
	if _, err := r.Read(make([]byte, 1)); err != broken {
		t.Errorf("error %v", err)
	}
	if got, err := io.ReadAll(s.reader(false)); err != broken || string(got) != "other" {
		t.Errorf("got %q, %v", got, err)
	}
	s.end(nil)
	if got, err := io.ReadAll(s.reader(false)); err != nil || string(got) != "other" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestSpoolLead reads a spool by two readers, one of which stays behind the
// other, through a restart, and also where the other gives up.
func TestSpoolLead(t *testing.T) {
	broken := errors.New("broken")
	for _, gaveUp := range []bool{false, true} {
		s := newSpool(&memory{}, 0)
		s.setLead(0)
		content := random(31, 3*chunkSize+5)
		gate := make(chan struct{})
		var most atomic.Int64 // that the leading reader has asked for
		led, followed := make(chan error, 1), make(chan error, 1)
		go func() {
			led <- s.read(true, func(r io.Reader) error {
				asked := int64(0)
				for buf := make([]byte, chunkSize); ; {
					<-gate
					asked += chunkSize
					most.Store(max(asked, most.Load()))
					_, err := io.ReadFull(r, buf)
					switch {
					case err == io.EOF, err == io.ErrUnexpectedEOF:
						return nil
					case err != nil:
						return err
					case gaveUp && asked == 2*chunkSize:
						return broken
					}
				}
			})
		}()
		go func() {
			followed <- s.read(false, func(r io.Reader) error {
				got := 0
				for buf := make([]byte, 1000); ; {
					n, err := r.Read(buf)
					if !gaveUp && int64(got+n) > most.Load() {
						t.Errorf("read %d bytes, while the leading reader has asked for %d", got+n, most.Load())
					}
					if string(buf[:n]) != string(content[got:got+n]) {
						t.Errorf("wrong bytes at %d", got)
					}
					got += n
					if err == io.EOF && got == len(content) {
						return nil
					}
					if err != nil {
						return err
					}
				}
			})
		}()
		put := func() {
			if err := s.writeAt(content, 0); err != nil {
				t.Fatal(err)
			}
			s.arrived(int64(len(content)))
		}
		put()
		gate <- struct{}{}
		if err := s.restart(); err != nil {
			t.Fatal(err)
		}
		put()
		s.end(nil)
		close(gate)
		if err := <-led; gaveUp && err != broken || !gaveUp && err != nil {
			t.Errorf("the leading reader: %v", err)
		}
		if err := <-followed; err != nil {
			t.Errorf("the other reader: %v", err)
		}
	}
}

// What a reader makes of bytes that are started over afterwards, does not count.
func TestSpoolReadAgain(t *testing.T) {
	for _, leads := range []bool{false, true} {
		s := newSpool(&memory{}, 0)
		if leads {
			s.setLead(0)
		}
		put := func(text string) {
			if err := s.writeAt([]byte(text), 0); err != nil {
				t.Fatal(err)
			}
			s.arrived(int64(len(text)))
		}
		broken := errors.New("broken")
		begun, read := make(chan bool, 2), make(chan error, 1)
		var got []byte
		go func() {
			read <- s.read(leads, func(r io.Reader) (err error) {
				first := make([]byte, 1)
				if _, err := r.Read(first); err != nil {
					return err
				}
				begun <- true
				if string(first) == "b" {
					return broken
				}
				got, err = io.ReadAll(r)
				return err
			})
		}()
		put("bad")
		<-begun
		if err := s.restart(); err != nil {
			t.Fatal(err)
		}
		put("good")
		s.end(nil)
		if err := <-read; err != nil || string(got) != "ood" {
			t.Errorf("leads is %v: %v, %q", leads, err, got)
		}

		s = newSpool(&memory{}, 0)
		put("bad")
		s.end(nil)
		if err := s.read(leads, func(io.Reader) error { return broken }); err != broken {
			t.Errorf("leads is %v: %v", leads, err)
		}
	}
}

func TestFreeSpace(t *testing.T) {
	if free, err := freeSpace(t.TempDir()); err != nil || free <= 0 {
		t.Errorf("a directory: %d, %v", free, err)
	}
	if free, err := freeSpace("/proc"); err != nil || free != math.MaxInt64 {
		t.Errorf("a filesystem that does not tell: %d, %v", free, err)
	}
	if _, err := freeSpace("/nonexistent"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no directory: %v", err)
	}
}

// TestFullDisk downloads what is too large for TMPDIR.
func TestFullDisk(t *testing.T) {
	dir := mountTmpfs(t, "size=1m")
	t.Setenv("TMPDIR", dir)
	inParts(t) // so that it is more than one connection
	content := random(30, 3<<20)
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprintf("size known: %v", known), func(t *testing.T) {
			f := serve(t, content, func(_ int, w http.ResponseWriter, _ *http.Request) bool {
				if !known {
					w.Write(content)
				}
				return !known
			})
			file, err := tempFile()
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			err = fetchSrc(t.Context(), quick(5), f.URL, newSpool(file, 0))
			want := "MiB in " + dir + ", which has "
			if known {
				want = "fetch " + f.URL + ": the download needs at least 3.0 " + want + "1.0 MiB left (free some, or set TMPDIR to another directory): no space left on device"
			}
			if !errors.Is(err, unix.ENOSPC) || !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("error %v, want %s", err, want)
			}
			if n := len(f.asked()); n != 1 {
				t.Errorf("%d requests", n)
			}
			if info, err := file.Stat(); err != nil || known && info.Size() > 0 {
				t.Errorf("the file has %d bytes, %v", info.Size(), err)
			}
		})
	}
}

// TestSpaceThatVanishes has another program fill the disk meanwhile.
func TestSpaceThatVanishes(t *testing.T) {
	dir := mountTmpfs(t, "size=1m")
	t.Setenv("TMPDIR", dir)
	content := inParts(t)
	for len(content) < 900<<10 {
		content = append(content, content...)
	}
	content = content[:900<<10]
	var full atomic.Bool
	var f *faulty
	f = serve(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n == 0 {
			f.hold(full.Load, w, r)
			return true
		}
		if n == 3 {
			defer full.Store(true)
			if err := os.WriteFile(dir+"/other", make([]byte, 2<<20), 0o644); !errors.Is(err, unix.ENOSPC) {
				t.Errorf("filling the disk: %v", err)
			}
		}
		return false
	})
	file, err := tempFile()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	err = fetchSrc(t.Context(), quick(5), f.URL, newSpool(file, 0))
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), dir+", which has 0 B left") {
		t.Errorf("error %v", err)
	}
	nothingLeft(t)
}

func TestSpaceError(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	for _, full := range []error{unix.ENOSPC, unix.EDQUOT} {
		err := spaceError("the download", &os.PathError{Op: "write", Path: "x", Err: full}, 5<<20)
		if !errors.Is(err, full) || !strings.HasPrefix(err.Error(), "the download needs at least "+humanize.IBytes(5<<20)+" in "+dir+", which has ") {
			t.Errorf("error %v", err)
		}
	}
	if err := spaceError("the download", unix.EIO, 5); err != unix.EIO {
		t.Errorf("error %v", err)
	}
}
