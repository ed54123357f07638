package treesync

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/tartest"
)

// setACL gives a file the default or the access ACL that consists of entries:
// tag, permissions and ID, as in the kernel's struct posix_acl_xattr_entry.
func setACL(t *testing.T, path, attribute string, entries ...[3]uint32) {
	t.Helper()
	acl := []byte{2, 0, 0, 0} // struct posix_acl_xattr_header, with version 2
	for _, e := range entries {
		acl = binary.LittleEndian.AppendUint16(acl, uint16(e[0]))
		acl = binary.LittleEndian.AppendUint16(acl, uint16(e[1]))
		acl = binary.LittleEndian.AppendUint32(acl, e[2])
	}
	if err := unix.Setxattr(path, attribute, acl, 0); err == unix.EOPNOTSUPP {
		t.Skip("no ACLs in the directory for temporary files")
	} else if err != nil {
		t.Fatal(err)
	}
}

const (
	aclOwner, aclUser, aclGroup, aclMask, aclOther = 0x01, 0x02, 0x04, 0x10, 0x20 // tags
	aclNoID                                        = 1<<32 - 1
)

// aclsOf returns the modes and ACLs of all that is in dir.
func aclsOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	acls := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() == fs.ModeSymlink {
			return err
		}
		info, err := d.Info()
		line := fmt.Sprint(info.Mode())
		for _, attribute := range []string{"system.posix_acl_access", defaultACL} {
			var buf [1024]byte
			n, err := unix.Lgetxattr(path, attribute, buf[:])
			line += fmt.Sprintf(" %x", buf[:max(n, 0)])
			if err != nil && err != unix.ENODATA && err != unix.EOPNOTSUPP {
				return err
			}
		}
		relative, _ := filepath.Rel(dir, path)
		acls[relative] = line
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return acls
}

// A file is staged in another directory than the one that it ends up in, but
// inherits the default ACL of the latter, as if it had been created there. Run by
// rsync, it is.
func TestSyncInheritsDefaultACL(t *testing.T) {
	t.Parallel()
	named := [][3]uint32{{aclOwner, 7, aclNoID}, {aclUser, 6, 1234}, {aclGroup, 5, aclNoID}, {aclMask, 7, aclNoID}, {aclOther, 0, aclNoID}}
	minimal := [][3]uint32{{aclOwner, 7, aclNoID}, {aclGroup, 5, aclNoID}, {aclOther, 1, aclNoID}}
	data := tartest.Make(t, tartest.Member{Name: "./", Type: tDir}, tartest.Member{Name: "top"}, tartest.Member{Name: "topdir/", Type: tDir}, tartest.Member{Name: "topdir/f"},
		tartest.Member{Name: "acl/", Type: tDir}, tartest.Member{Name: "acl/new", Mode: 0o640}, tartest.Member{Name: "acl/exec", Mode: 0o755}, tartest.Member{Name: "acl/secret", Mode: 0o600},
		tartest.Member{Name: "acl/changed", Body: "new"}, tartest.Member{Name: "acl/same", Body: "same"}, tartest.Member{Name: "acl/mode", Body: "same", Mode: 0o660}, tartest.Member{Name: "acl/link", Type: tSym, Body: "new"},
		tartest.Member{Name: "acl/fifo", Type: tFifo}, tartest.Member{Name: "acl/sub/", Type: tDir, Mode: 0o750}, tartest.Member{Name: "acl/sub/f"}, tartest.Member{Name: "acl/implicit/f"}, tartest.Member{Name: "acl/closed/", Type: tDir, Mode: 0o555},
		tartest.Member{Name: "minimal/", Type: tDir}, tartest.Member{Name: "minimal/new", Mode: 0o666}, tartest.Member{Name: "minimal/sub/", Type: tDir}, tartest.Member{Name: "minimal/sub/f"},
		tartest.Member{Name: "plain/", Type: tDir}, tartest.Member{Name: "plain/new"}, tartest.Member{Name: "plain/sub/", Type: tDir}, tartest.Member{Name: "plain/sub/f"})
	for name, top := range map[string][][3]uint32{"none on dest": nil, "another on dest": {{aclOwner, 7, aclNoID}, {aclUser, 4, 4321}, {aclGroup, 0, aclNoID}, {aclMask, 4, aclNoID}, {aclOther, 0, aclNoID}}} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			want, got := filepath.Join(base, "want"), filepath.Join(base, "got")
			for _, dir := range []string{want, got} {
				makeFiles(t, dir, file{path: "acl/changed", body: "old"}, file{path: "acl/same", body: "same"}, file{path: "acl/mode", body: "same"}, file{path: "minimal/"}, file{path: "plain/"})
				setACL(t, filepath.Join(dir, "acl"), defaultACL, named...)
				setACL(t, filepath.Join(dir, "acl", "mode"), "system.posix_acl_access", named...)
				setACL(t, filepath.Join(dir, "minimal"), defaultACL, minimal...)
				if top != nil {
					setACL(t, dir, defaultACL, top...)
				}
			}
			if _, err := syncByTools(t, Options{}, data, want, "--checksum"); err != nil {
				t.Fatal(err)
			}
			if _, err := syncBytes(t, Options{}, data, got); err != nil {
				t.Fatal(err)
			}
			wanted, found := aclsOf(t, want), aclsOf(t, got)
			if !strings.Contains(wanted["acl/new"], fmt.Sprintf("%x", binary.LittleEndian.AppendUint32(nil, 1234))) {
				t.Fatalf("rsync's acl/new has inherited nothing: %s", wanted["acl/new"])
			}
			for _, path := range slices.Sorted(maps.Keys(wanted)) {
				if found[path] != wanted[path] {
					t.Errorf("%s: %s\nwant %s", path, found[path], wanted[path])
				}
			}
			if logged, err := syncBytes(t, Options{}, data, got); err != nil || !strings.Contains(logged, " 0 created, 0 changed") {
				t.Errorf("again: %v: %s", err, logged)
			}
			os.Chmod(filepath.Join(got, "acl/closed"), 0o755)
			os.Chmod(filepath.Join(want, "acl/closed"), 0o755)
		})
	}
}
