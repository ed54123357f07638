package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/tartest"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

func TestSpoolReader(t *testing.T) {
	t.Parallel()
	s := newSpool(&memory{}, 0)
	put := func(text string, offset, ready int64) {
		t.Helper()
		if err := s.writeAt([]byte(text), offset); err != nil {
			t.Fatal(err)
		}
		s.arrived(ready)
	}
	r := s.newReader(true)
	read := func(n int) string {
		t.Helper()
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	put("cd", 2, 0) // not to be read before "ab"
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
	r = s.newReader(true)
	if got := read(5); got != "other" {
		t.Errorf("got %q", got)
	}
	broken := errors.New("broken")
	s.end(broken)
	if _, err := r.Read(make([]byte, 1)); err != broken {
		t.Errorf("error %v", err)
	}
	if got, err := io.ReadAll(s.newReader(true)); err != broken || len(got) > 0 {
		t.Errorf("got %q, %v", got, err)
	}

	s = newSpool(&memory{}, 0)
	put("other", 0, 5)
	s.end(nil)
	if got, err := io.ReadAll(s.newReader(true)); err != nil || string(got) != "other" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestSpoolLead reads a spool through a restart by two readers, of which the
// follower must stay behind the leader. In the second case, the leader fails.
func TestSpoolLead(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for _, fails := range []bool{false, true} {
		s := newSpool(&memory{}, 0)
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
					case fails && asked == 2*chunkSize:
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
					if int64(got+n) > most.Load() {
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
		if err := <-led; fails && err != broken || !fails && err != nil {
			t.Errorf("the leading reader: %v", err)
		}
		if err := <-followed; err != nil {
			t.Errorf("the other reader: %v", err)
		}
	}
}

// The result of a reader, nil or an error, does not count when the object has
// been started over since the reader began.
func TestSpoolReadAgain(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for _, leads := range []bool{false, true} {
		for _, result := range []error{nil, broken} {
			s := newSpool(&memory{}, 0)
			if !leads {
				go s.read(true, func(io.Reader) error { return nil })
			}
			put := func(text string) {
				if err := s.writeAt([]byte(text), 0); err != nil {
					t.Fatal(err)
				}
				s.arrived(int64(len(text)))
			}
			begun, restarted, read := make(chan bool, 2), make(chan bool), make(chan error, 1)
			var got []byte
			go func() {
				read <- s.read(leads, func(r io.Reader) (err error) {
					first := make([]byte, 1)
					if _, err := r.Read(first); err != nil {
						return err
					}
					begun <- true
					if string(first) == "b" {
						if result != nil {
							<-restarted
						}
						return result
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
			close(restarted)
			put("good")
			s.end(nil)
			if err := <-read; err != nil || string(got) != "ood" {
				t.Errorf("leads is %v, result %v: %v, %q", leads, result, err, got)
			}
		}
		s := newSpool(&memory{}, 0)
		if err := s.read(leads, func(io.Reader) error { return broken }); err != broken {
			t.Errorf("leads is %v: %v", leads, err)
		}
		if _, err := s.newReader(!leads).Read(make([]byte, 1)); err != broken {
			t.Errorf("leads is %v: another reader got %v", leads, err)
		}
		s = newSpool(&memory{}, 0)
		s.end(errors.New("the download failed"))
		if err := s.read(leads, func(io.Reader) error { return broken }); err != nil {
			t.Errorf("leads is %v, after the download failed: %v", leads, err)
		}
	}
}

// TestFullDisk downloads an object that is too large for TMPDIR.
func TestFullDisk(t *testing.T) {
	dir := tartest.MountTmpfs(t, "size=1m")
	t.Setenv("TMPDIR", dir)
	content := random(30, 3<<20)
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprintf("size known: %v", known), func(t *testing.T) {
			f := serve(t, content, func(_ int, w http.ResponseWriter, _ *http.Request) bool {
				if !known {
					w.Write(content)
				}
				return !known
			})
			file, err := unixfs.TempFile()
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			_, err = Download(t.Context(), f.URL, file, inParts(quick(5)).logTo(&recorder{}))
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

// TestSpaceThatVanishes has another program fill the disk during the download.
func TestSpaceThatVanishes(t *testing.T) {
	dir := tartest.MountTmpfs(t, "size=1m")
	t.Setenv("TMPDIR", dir)
	content := random(10, 1<<17)
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
	file, err := unixfs.TempFile()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	pprof.Do(t.Context(), pprof.Labels("download", t.Name()), func(ctx context.Context) {
		_, err = Download(ctx, f.URL, file, inParts(quick(5)).logTo(&recorder{}))
	})
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), dir+", which has 0 B left") {
		t.Errorf("error %v", err)
	}
	nothingLeft(t)
}
