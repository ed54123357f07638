package unixfs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Traits are what decides, beyond the permissions of its directory, whether a
// file can be deleted or replaced.
type Traits struct {
	Mount     MountID
	MountRoot bool // something is mounted on it; false on Linux before 5.8, which does not tell
	// Immutable and AppendOnly are the attributes i and a of chattr(1). They are
	// false where the file system does not tell.
	Immutable, AppendOnly bool

	UID  uint32
	Mode uint32 // as st_mode of stat(2)
}

// MountID tells mounts apart, and also the parts of a file system that have
// device numbers of their own, such as subvolumes of btrfs.
type MountID struct{ device, mount uint64 }

// TraitsOf returns the traits of name in the directory dir, without following a
// symbolic link. If name is "", they are those of what dir is open on.
func TraitsOf(dir int, name string) (Traits, error) {
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	var st unix.Statx_t
	err := unix.Statx(dir, name, flags, unix.STATX_TYPE|unix.STATX_MODE|unix.STATX_UID|unix.STATX_MNT_ID, &st)
	if err == unix.ENOSYS || err == unix.EPERM { // statx(2) is missing, or denied in a sandbox
		var old unix.Stat_t
		err := unix.Fstatat(dir, name, &old, flags)
		return Traits{Mount: MountID{device: old.Dev}, UID: old.Uid, Mode: old.Mode}, err
	}
	if err != nil {
		return Traits{}, err
	}
	t := Traits{
		Mount:      MountID{device: unix.Mkdev(st.Dev_major, st.Dev_minor)},
		MountRoot:  st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0,
		Immutable:  st.Attributes&unix.STATX_ATTR_IMMUTABLE != 0,
		AppendOnly: st.Attributes&unix.STATX_ATTR_APPEND != 0,
		UID:        st.Uid,
		Mode:       uint32(st.Mode),
	}
	// Linux reports mount IDs since 5.8. On older kernels the device number has
	// to suffice, which does not tell bind mounts of one file system apart.
	if st.Mask&unix.STATX_MNT_ID != 0 {
		t.Mount.mount = st.Mnt_id
	}
	return t, nil
}

// Fixed returns an error if the file is immutable or can only be appended to, and
// else nil. The error wraps unix.EPERM, calls the file what, and says how to change
// that.
func (t Traits) Fixed(what string) error {
	switch {
	case t.Immutable:
		return fmt.Errorf("%w (%s is immutable: remove that by chattr -i)", unix.EPERM, what)
	case t.AppendOnly:
		return fmt.Errorf("%w (%s is append-only: remove that by chattr -a)", unix.EPERM, what)
	}
	return nil
}

// ExplainDenied adds to err the reason for it, if that can be found out: it is the
// error of a system call that was to delete, replace or change name in the directory
// dir. Other errors are returned as they are.
func ExplainDenied(dir int, name string, err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		if t, statErr := TraitsOf(dir, name); statErr == nil {
			if fixed := t.Fixed("it"); fixed != nil {
				return fixed
			}
		}
		if t, statErr := TraitsOf(dir, ""); statErr == nil {
			if fixed := t.Fixed("its directory"); fixed != nil {
				return fixed
			}
		}
	case errors.Is(err, unix.EBUSY):
		if t, statErr := TraitsOf(dir, name); statErr == nil && t.MountRoot {
			return fmt.Errorf("is a mount point: %w", err)
		}
	}
	return err
}

// MayChange reports whether this process may create and delete names in the
// open directory dir: unix.EACCES where it lacks the permission, unix.EROFS on a
// read-only file system, unix.EPERM where the directory is immutable. A nil error
// is no promise, since not every kernel and file system tells.
func MayChange(dir int) error {
	const mode = unix.W_OK | unix.X_OK
	err := unix.Faccessat2(dir, ".", mode, unix.AT_EACCESS)
	switch {
	case err == unix.ENOSYS: // before Linux 5.8
		return nil
	case err == unix.EPERM && unix.Faccessat(dir, ".", mode, 0) != unix.EPERM:
		return nil // a sandbox denies the system call itself
	}
	return err
}

// HasCapability reports whether this process has one of the capabilities that
// unix.CAP_FOWNER and the like name (capabilities(7)).
func HasCapability(capability int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) != nil {
		return false
	}
	return data[capability/32].Effective&(1<<(capability%32)) != 0
}
