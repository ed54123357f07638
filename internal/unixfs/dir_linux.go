package unixfs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Openat is openat(2) with O_CLOEXEC, retried when a signal interrupts it, as
// file systems in user space allow. os.OpenFile would need more system calls,
// to find out that a regular file cannot be polled.
func Openat(dir int, name string, flags int, mode uint32) (fd int, err error) {
	for {
		fd, err = unix.Openat(dir, name, flags|unix.O_CLOEXEC, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// OpenDir opens the directory name in the directory dir. It fails with
// unix.ENOTDIR or unix.ELOOP where name is a symbolic link.
func OpenDir(dir int, name string) (fd int, err error) {
	return Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}

// OpenBelow opens the directory at a slash-separated path below the directory
// root, opening each component in the one before it.
func OpenBelow(root int, path string) (int, error) {
	fd, err := OpenDir(root, ".")
	for name := range strings.SplitSeq(path, "/") {
		if err != nil {
			return -1, err
		}
		var next int
		next, err = OpenDir(fd, name)
		unix.Close(fd)
		fd = next
	}
	return fd, err
}

// Dirent is a name in a directory.
type Dirent struct {
	Name string
	Kind uint32 // the file type, as unix.S_IFMT selects it from st_mode
}

// IsDir reports whether the name is a directory's.
func (d Dirent) IsDir() bool { return d.Kind == unix.S_IFDIR }

var direntBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// ReadDir lists an open directory, which must be positioned at its start,
// without "." and "..", in the order of the file system. Unlike os.File.ReadDir
// it looks up missing types through the descriptor, and not through a path.
// It makes room for the number of names that the caller expects, since a list of
// a million names that grows takes twice the memory.
func ReadDir(fd, expected int) ([]Dirent, error) {
	var list []Dirent
	buf := direntBuffers.Get().(*[32 << 10]byte)
	defer direntBuffers.Put(buf)
	for {
		n, err := unix.Getdents(fd, buf[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return list, nil
		}
		for b := buf[:n]; len(b) > 0; {
			// struct linux_dirent64 of getdents(2): inode, offset, record
			// length, type, name.
			const head = 8 + 8 + 2 + 1
			record := b[:binary.NativeEndian.Uint16(b[16:])]
			b = b[len(record):]
			padded, _, _ := bytes.Cut(record[head:], []byte{0})
			name := string(padded)
			if name == "." || name == ".." {
				continue
			}
			kind := uint32(record[18]) << 12
			if kind == 0 { // DT_UNKNOWN
				var st unix.Stat_t
				if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err == unix.ENOENT {
					continue
				} else if err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
				kind = st.Mode & unix.S_IFMT
			}
			if list == nil {
				list = make([]Dirent, 0, expected)
			}
			list = append(list, Dirent{name, kind})
		}
	}
}

// ReadLink returns the target of the symbolic link name in the directory dir.
func ReadLink(dir int, name string) (string, error) {
	var buf [unix.PathMax]byte
	n, err := unix.Readlinkat(dir, name, buf[:])
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
