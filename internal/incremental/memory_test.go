package incremental

import (
	"archive/tar"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/fujiwara/stretcher/internal/fetch"
	"github.com/fujiwara/stretcher/internal/seekable"
)

// An index that is as large as it may be, or claims to be, takes at most 64 MiB. The
// test must not run in parallel with others.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes seconds")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	many := &seekable.Index{Pieces: make([]seekable.Piece, 512<<10)}
	if _, _, err := Open(t.Context(), many, Options{}, nil); !errors.Is(err, ErrWhole) {
		t.Errorf("too many pieces: %v", err)
	}
	for _, files := range []int{90_000} {
		var encoded []byte
		{
			x := indexOf(t, func(w *seekable.Writer) {
				tw := tar.NewWriter(w)
				for i := range files {
					if err := errors.Join(tw.WriteHeader(&tar.Header{Name: fmt.Sprint("a-name-that-is-not-short/", i), Size: 8, Typeflag: tar.TypeReg, Mode: 0o644}), w.File(8)); err != nil {
						t.Fatal(err)
					}
					if _, err := tw.Write(binary.BigEndian.AppendUint64(nil, uint64(i))); err != nil {
						t.Fatal(err)
					}
					if err := tw.Flush(); err != nil {
						t.Fatal(err)
					}
				}
				if err := tw.Close(); err != nil {
					t.Fatal(err)
				}
			})
			for i := range min(files, 60_000) {
				p := x.Pieces[i]
				x.Patches = append(x.Patches, seekable.Patch{Offset: x.DataSize() + int64(i)*20, Size: 20, TarOffset: p.Offset, TarSize: p.Size,
					Base: seekable.Base{Path: fmt.Sprint("another-name-that-is-not-short/", i), FileSize: 10, FileSum: p.Sum, Size: 10}})
			}
			var err error
			if encoded, err = x.Encode(); err != nil {
				t.Fatal(err)
			}
		}
		peak := peakOf(func() {
			x, err := seekable.Decode(encoded)
			if err != nil {
				t.Error(err)
				return
			}
			_, _, err = Open(t.Context(), x, Options{Older: t.TempDir(), Size: 1 << 40}, func(context.Context, []fetch.Range, func(context.Context, fetch.Range, io.Reader) error) error {
				return errors.New("reached")
			})
			t.Logf("%d files: %v", files, err)
		})
		t.Logf("%d files, an index of %d bytes: %d MiB", files, len(encoded), peak>>20)
		if peak > 64<<20 {
			t.Errorf("%d files: %d bytes", files, peak)
		}
	}
}

// peakOf returns how much memory f takes at most, beyond what was taken before.
func peakOf(f func()) uint64 {
	heap := func() uint64 {
		s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		metrics.Read(s)
		return s[0].Value.Uint64()
	}
	runtime.GC()
	before, peak := heap(), uint64(0)
	done, sampled := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sampled)
		for {
			peak = max(peak, heap())
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	f()
	close(done)
	<-sampled
	return peak - min(before, peak)
}
