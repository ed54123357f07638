package treesync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/fujiwara/stretcher/internal/archive"
)

// directory finds the IDs of the users or the groups that this machine knows.
type directory struct {
	database string // of getent(1)
	find     func(name string) (string, error)
	timeout  time.Duration  // of getent(1)
	known    map[string]int // the answers so far; unknownName is one
}

const unknownName = -1

func newDirectory(database string, find func(string) (string, error)) *directory {
	return &directory{database, find, getentTimeout, map[string]int{}}
}

func userID(name string) (string, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return "", err
	}
	return u.Uid, nil
}

func groupID(name string) (string, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return "", err
	}
	return g.Gid, nil
}

// lookUp returns the ID of a name, or else id, which the archive gives; it is an
// error if there is neither. It asks for each name once: first package os/user,
// which in a static program only reads /etc/passwd or /etc/group, and then getent(1),
// which knows the other sources of nsswitch.conf(5), such as LDAP.
func (d *directory) lookUp(ctx context.Context, name string, id int) (int, error) {
	if name == "" {
		return id, nil
	}
	found, ok := d.known[name]
	if !ok {
		s, err := d.find(name)
		var noUser user.UnknownUserError
		var noGroup user.UnknownGroupError
		switch {
		case err == nil:
			found, err = strconv.Atoi(s)
		case errors.As(err, &noUser), errors.As(err, &noGroup), errors.Is(err, fs.ErrNotExist):
			// ErrNotExist: the system has no /etc/passwd.
			found, err = d.getent(ctx, name)
		}
		if err != nil {
			return 0, err
		}
		d.known[name] = found
	}
	switch {
	case found != unknownName:
		return found, nil
	case id == archive.NoID:
		return 0, errors.New("this machine does not know the name, and the number in the archive is impossible")
	}
	return id, nil
}

// getentTimeout is how long getent(1) may take. A directory service that does
// not answer must not hold up the deployment for ever.
const getentTimeout = 10 * time.Second

// getent asks getent(1) for the ID of a name. It returns unknownName where the name
// has none, and where the system has no getent. That getent fails or takes too long
// is an error: files would belong to another user than the archive says.
func (d *directory) getent(ctx context.Context, name string) (int, error) {
	if !mayAsk(name) {
		return unknownName, nil
	}
	program, err := exec.LookPath("getent")
	if err != nil {
		return unknownName, nil
	}
	limited, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	cmd := exec.CommandContext(limited, program, d.database, name)
	cmd.WaitDelay = time.Second // for the output, should a child of it go on
	out, err := cmd.Output()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case limited.Err() != nil:
		return 0, fmt.Errorf("getent %s: no answer within %s", d.database, d.timeout)
	case errors.As(err, &exit) && exit.ExitCode() == 2: // getent(1), "EXIT STATUS"
		return unknownName, nil
	case err != nil:
		return 0, fmt.Errorf("getent %s: %w", d.database, err)
	}
	id, err := parseGetent(string(out))
	if err != nil {
		return 0, fmt.Errorf("getent %s: %w", d.database, err)
	}
	return id, nil
}

// mayAsk reports whether getent(1) takes a name for a name: not for an option,
// and not for a number, whose owner it would look up. Control characters and
// colons are in no name of a user or group.
func mayAsk(name string) bool {
	return len(name) <= 256 && !strings.HasPrefix(name, "-") &&
		!strings.ContainsFunc(name, func(r rune) bool { return unicode.IsControl(r) || r == ':' }) &&
		strings.ContainsFunc(name, unicode.IsLetter)
}

// parseGetent returns the ID in the first line of getent's output, whose form is
// that of passwd(5) or group(5).
func parseGetent(out string) (int, error) {
	line, _, _ := strings.Cut(out, "\n")
	fields := strings.Split(line, ":")
	const noID = 1<<32 - 1 // chown(2) takes this ID as a request to keep the owner
	if len(fields) >= 4 {
		if id, err := strconv.ParseUint(fields[2], 10, 32); err == nil && id != noID {
			return int(id), nil
		}
	}
	return 0, errors.New("the answer has no ID in it")
}
