package stretcher

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

// forest makes directories at random, and changes them. The same seed makes the same
// ones, with the same rights.
type forest struct {
	t    *testing.T
	rng  *rand.Rand
	seen [][]byte // contents, of which others may have parts
}

func newForest(t *testing.T, seed uint64) *forest {
	return &forest{t: t, rng: rand.New(rand.NewPCG(seed, 0))}
}

// paths lists what is below a directory, itself not included.
func paths(t *testing.T, dir string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if path == dir {
			return nil // it may be missing
		}
		paths = append(paths, strings.TrimPrefix(path, dir+"/"))
		return err
	})
	must(t, err)
	return paths
}

// copy copies a directory to one that does not exist.
func (f *forest) copy(from, to string) {
	f.t.Helper()
	if out, err := exec.CommandContext(f.t.Context(), "cp", "-a", from, to).CombinedOutput(); err != nil {
		f.t.Fatalf("%v: %s", err, out)
	}
}

// one returns one of several values.
func one[T any](rng *rand.Rand, of ...T) T { return of[rng.IntN(len(of))] }

// size returns the size of a file. Sizes at which packing does something else are
// frequent.
func (f *forest) size() int {
	const data, chunk = 128 << 10, 256 << 10
	switch n := f.rng.IntN(60); {
	case n < 4:
		return one(f.rng, 0, 1, 511, 512, 513, 1024)
	case n < 6:
		return one(f.rng, data, chunk) + one(f.rng, -513, -512, -1, 0, 1)
	case n < 8:
		return chunk + f.rng.IntN(3*chunk)
	case n == 8 && f.rng.IntN(100) == 0:
		return one(f.rng, 8<<20, 16<<20) + f.rng.IntN(3) - 1 + f.rng.IntN(2)*f.rng.IntN(4<<20)
	default:
		return f.rng.IntN(6000)
	}
}

// bytes returns contents of a size: like text, like compressed files, like nothing
// at all, or with parts of other contents.
func (f *forest) bytes(size int) []byte {
	b := make([]byte, 0, size+24)
	switch kind := f.rng.IntN(8); {
	case kind == 0:
		b = b[:size]
	case kind == 1:
		for len(b) < size {
			b = append(b, byte(f.rng.Uint32()), byte(f.rng.Uint32()))
		}
	case kind <= 3 && len(f.seen) > 0:
		for len(b) < size {
			old := one(f.rng, f.seen...)
			at := f.rng.IntN(len(old) + 1)
			b = append(append(b, old[at:at+min(len(old)-at, size-len(b))]...), byte(f.rng.Uint32()))
		}
	default:
		for len(b) < size {
			b = fmt.Appendf(b, "%x and %x, ", f.rng.IntN(1e6), f.rng.IntN(1e6))
		}
	}
	b = b[:size]
	if len(f.seen) < 20 {
		f.seen = append(f.seen, b)
	}
	return b
}

// name returns a name that a directory perhaps does not have yet.
func (f *forest) name() string {
	switch n := f.rng.IntN(6); n {
	case 0:
		return one(f.rng, "\xff\xfe", "new\nline", " space ", "ü", "-n", "*", "[a]", "$(x)", `"q'`, "a\\b", ".hidden", "%2e", strings.Repeat("n", 101), strings.Repeat("ü", 127), "lib-1.2.so", "lib-1.3.so", "#1")
	case 1, 2:
		return fmt.Sprint("dir", f.rng.IntN(4))
	default:
		return fmt.Sprint("file", f.rng.IntN(40))
	}
}

// place returns a path in a directory at which nothing is yet.
func (f *forest) place(dir string) string {
	for {
		parent := dir
		for f.rng.IntN(3) > 0 {
			parent = filepath.Join(parent, one(f.rng, "dir0", "dir1", "dir2", f.name()))
		}
		path := filepath.Join(parent, f.name())
		info, err := os.Stat(parent)
		if err == nil && !info.IsDir() || len(path) > 1500 {
			continue
		}
		if real, err := filepath.EvalSymlinks(parent); err == nil && real != parent {
			continue
		}
		if os.MkdirAll(parent, 0o755) != nil { // a dangling link
			continue
		}
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return path
		}
	}
}

// grow adds files of all types.
func (f *forest) grow(dir string, n int) {
	for range n {
		f.add(f.place(dir))
	}
}

// add creates a file of any type.
func (f *forest) add(path string) {
	var err error
	switch n := f.rng.IntN(24); {
	case n < 2:
		err = os.Mkdir(path, 0o755)
	case n < 5:
		err = os.Symlink(one(f.rng, ".", "..", "dir0", "../dir1", "/nowhere", "../../outside/dir0", "file1", "\xff", strings.Repeat("x", 300)), path)
	case n == 5:
		err = syscall.Mkfifo(path, 0o644)
	case n == 6 && os.Geteuid() == 0:
		err = syscall.Mknod(path, syscall.S_IFCHR|0o600, int(unix.Mkdev(1, uint32(3+2*f.rng.IntN(2)))))
		if errors.Is(err, syscall.EPERM) {
			err = os.Mkdir(path, 0o755)
		}
	default:
		f.write(path, f.bytes(f.size()))
	}
	must(f.t, err)
	f.attributes(path)
}

// write writes a file, perhaps with holes.
func (f *forest) write(path string, contents []byte) {
	file, err := os.Create(path)
	must(f.t, err)
	defer file.Close()
	for at := 0; at < len(contents); at += 4096 {
		block := contents[at:min(at+4096, len(contents))]
		if len(bytes.Trim(block, "\x00")) > 0 {
			_, err := file.WriteAt(block, int64(at))
			must(f.t, err)
		}
	}
	must(f.t, file.Truncate(int64(len(contents))))
}

// attributes sets owner and mode.
func (f *forest) attributes(path string) {
	info, err := os.Lstat(path)
	must(f.t, err)
	if os.Geteuid() == 0 && f.rng.IntN(3) == 0 {
		must(f.t, os.Lchown(path, one(f.rng, 0, 1, 65534, 2097151, 2097152, 1<<31), one(f.rng, 0, 1, 100, 1<<31)))
	}
	if info.Mode()&fs.ModeSymlink != 0 || f.rng.IntN(3) > 0 {
		return
	}
	mode := uint32(f.rng.IntN(0o1000))
	if os.Geteuid() == 0 {
		mode = uint32(f.rng.IntN(0o10000))
	} else {
		mode &^= unixfs.Umask() // as when it is extracted
		mode |= 0o700           // or else it cannot be read and removed
	}
	must(f.t, syscall.Chmod(path, mode))
}

// settle sets the times of all files, with which they are packed.
func (f *forest) settle(dir string) {
	all := paths(f.t, dir)
	for i := len(all) - 1; i >= 0; i-- { // directories after what is in them
		seconds := one(f.rng, 1_000_000_000, 1_000_000_000, 1_700_000_000+f.rng.Int64N(1000), 0, -1, 1<<33)
		at := []unix.Timespec{{Sec: seconds}, {Sec: seconds}}
		must(f.t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, all[i]), at, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// change makes n changes to what is in a directory.
func (f *forest) change(dir string, n int) {
	for range n {
		all := paths(f.t, dir)
		if len(all) == 0 {
			f.grow(dir, 1)
			continue
		}
		path, other := filepath.Join(dir, one(f.rng, all...)), filepath.Join(dir, one(f.rng, all...))
		switch f.rng.IntN(9) {
		case 0:
			must(f.t, os.RemoveAll(path))
		case 1: // moved
			if err := os.Rename(path, f.place(dir)); err != nil && !errors.Is(err, syscall.EINVAL) {
				f.t.Fatal(err) // a directory cannot be moved into itself
			}
		case 2: // of another type
			must(f.t, os.RemoveAll(path))
			f.add(path)
		case 3:
			f.attributes(path)
		case 4:
			if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
				must(f.t, os.Link(path, f.place(dir)))
			}
		case 5:
			if a, b := f.regular(path), f.regular(other); a != nil && b != nil {
				f.write(path, b)
				f.write(other, a)
			}
		default:
			if b := f.regular(path); b != nil {
				f.write(path, f.edit(b))
			}
		}
	}
}

// regular returns the contents of a regular file, nil for other ones.
func (f *forest) regular(path string) []byte {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	b, err := os.ReadFile(path)
	must(f.t, err)
	return append([]byte{}, b...)
}

// edit changes contents.
func (f *forest) edit(b []byte) []byte {
	at := f.rng.IntN(len(b) + 1)
	to := at + f.rng.IntN(min(len(b)-at, 3000)+1)
	switch f.rng.IntN(5) {
	case 0:
		return append(append(b[:at:at], f.bytes(f.rng.IntN(500))...), b[at:]...)
	case 1:
		return append(b[:at:at], b[to:]...)
	case 2:
		return b[:at]
	case 3:
		copy(b[at:to], f.bytes(to-at))
		return b
	default:
		return append(b, f.bytes(f.rng.IntN(500))...)
	}
}
