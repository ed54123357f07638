package pack

import (
	"errors"
	"strconv"
	"strings"
)

// Owner is an owner and a group.
type Owner struct {
	user, group string
	uid, gid    int
}

// ParseOwner parses USER:GROUP, each of which is a name or a number. Where the archive
// is extracted, a name stands for the number that the host has for it, or for 0 if the
// host does not know it.
func ParseOwner(s string) (*Owner, error) {
	user, group, _ := strings.Cut(s, ":")
	o := &Owner{}
	var err error
	if o.user, o.uid, err = parseName(user); err == nil {
		o.group, o.gid, err = parseName(group)
	}
	return o, err
}

// maxName is how long a name in the header of a tar can be, in bytes.
const maxName = 31

func parseName(s string) (name string, id int, err error) {
	// 2^32-1 asks chown(2) to keep the owner.
	if n, err := strconv.ParseUint(s, 10, 32); err == nil && n < 1<<32-1 {
		return "", int(n), nil
	}
	valid := s != "" && len(s) <= maxName && strings.Trim(s, "0123456789") != ""
	for _, c := range []byte(s) {
		valid = valid && '!' <= c && c <= '~' && c != ':' && c != '/'
	}
	if !valid {
		return "", 0, errors.New("expected USER:GROUP, as root:root or 1000:1000")
	}
	return s, 0, nil
}
