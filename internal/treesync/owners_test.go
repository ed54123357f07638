package treesync

import (
	"archive/tar"
	"context"
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
	"github.com/fujiwara/stretcher/internal/tartest"
)

// fakeGetent puts a getent into PATH that knows appuser and appgroup, and
// returns the file in which it logs its arguments.
func fakeGetent(t *testing.T) (calls string) {
	t.Helper()
	dir := t.TempDir()
	calls = filepath.Join(dir, "calls")
	script := `#!/bin/sh
echo "$*" >> ` + calls + `
case "$1 $2" in
"passwd appuser") echo 'appuser:x:7001:7001::/nonexistent:/bin/false';;
"group appgroup") echo 'appgroup:x:7002:';;
"group domain users") echo 'domain users:*:7003:a,b';;
"passwd broken") exit 1;;
"passwd garbage") echo garbage;;
"passwd slow") exec sleep 60;;
*) exit 2;;
esac
`
	if err := os.WriteFile(filepath.Join(dir, "getent"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return calls
}

func testUsers() *directory {
	return newDirectory("passwd", func(name string) (string, error) {
		if name == "local" {
			return "33", nil
		}
		return "", user.UnknownUserError(name)
	})
}

func TestLookUpByGetent(t *testing.T) {
	calls := fakeGetent(t)
	users := testUsers()
	groups := newDirectory("group", func(name string) (string, error) { return "", user.UnknownGroupError(name) })
	for range 2 {
		for _, test := range []struct {
			directory *directory
			name      string
			want      int
		}{
			{users, "local", 33}, {users, "appuser", 7001}, {users, "nobody-has-it", 5}, {users, "", 5},
			{groups, "appgroup", 7002}, {groups, "domain users", 7003}, {groups, "appuser", 5},
			{users, "-x", 5}, {users, "--service=files", 5}, {users, "0", 5}, {users, "+12", 5}, {users, " 12", 5}, {users, "a\nb", 5}, {users, "a:b", 5}, {users, strings.Repeat("a", 300), 5},
		} {
			if got, err := test.directory.lookUp(t.Context(), test.name, 5); err != nil || got != test.want {
				t.Errorf("%q: %d, %v, want %d", test.name, got, err, test.want)
			}
		}
	}
	// Each name once, unknown ones too.
	if got, err := os.ReadFile(calls); err != nil || string(got) != "passwd appuser\npasswd nobody-has-it\ngroup appgroup\ngroup domain users\ngroup appuser\n" {
		t.Errorf("%v: getent was called with\n%s", err, got)
	}
}

func TestLookUpByGetentFails(t *testing.T) {
	fakeGetent(t)
	users := testUsers()
	for name, want := range map[string]string{"broken": "getent passwd: exit status 1", "garbage": "getent passwd: the answer has no ID in it"} {
		if _, err := users.lookUp(t.Context(), name, 5); err == nil || err.Error() != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	users.timeout = 50 * time.Millisecond
	if _, err := users.lookUp(t.Context(), "slow", 5); err == nil || err.Error() != "getent passwd: no answer within 50ms" {
		t.Error(err)
	}
	users.timeout = time.Minute
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(stopped) })
	if _, err := users.lookUp(ctx, "slow", 5); err != stopped {
		t.Error(err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := users.lookUp(t.Context(), "appuser", archive.NoID); err == nil || !strings.Contains(err.Error(), "the number in the archive is impossible") {
		t.Errorf("neither a name nor a number: %v", err)
	}
	if id, err := users.lookUp(t.Context(), "appuser", 5); err != nil || id != 5 {
		t.Errorf("without getent: %d, %v", id, err)
	}
}

func TestSyncOwnersByGetent(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	fakeGetent(t)
	dest := filepath.Join(t.TempDir(), "dest")
	data := tartest.MakeHeaders(t, &tar.Header{Name: "f", Typeflag: tar.TypeReg, Mode: 0o644, Uid: 1234, Gid: 1234, Uname: "appuser", Gname: "appgroup"})
	if _, err := syncBytes(t, Options{}, data, dest); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(dest, "f"), &st); err != nil || st.Uid != 7001 || st.Gid != 7002 {
		t.Errorf("%v: %d:%d", err, st.Uid, st.Gid)
	}
}

func FuzzParseGetent(f *testing.F) {
	for _, seed := range []string{"a:x:7001:7001::/:/bin/sh\n", "g:x:7002:\n", "g:*:4294967295:", "", ":::", "a:x:-1:1", "a:x:+1:1", "a:x:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, out string) {
		if id, err := parseGetent(out); err == nil && (id < 0 || id >= 1<<32-1) {
			t.Errorf("%q: %d", out, id)
		}
	})
}
