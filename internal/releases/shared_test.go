package releases

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fujiwara/stretcher/internal/tartest"
)

// A shared path is created with all that the archive has there, read-only
// directories and hard links included, also on another file system than the
// releases. A killed run leaves no part of it.
func TestShared(t *testing.T) {
	t.Parallel()
	members := []tartest.Member{
		{Name: "data/", Type: '5', Mode: 0o555}, {Name: "data/a", Body: "x"}, {Name: "data/b", Type: '1', Body: "data/a"},
		{Name: "outside", Type: '1', Body: "data/a"}, {Name: "link", Type: '2', Body: "data"}, {Name: "implicit/x", Body: "y"},
	}
	for name, mount := range map[string]func(t *testing.T, dest string){
		"beside": func(*testing.T, string) {},
		"mounted": func(t *testing.T, dest string) {
			if err := os.Symlink(tartest.MountTmpfs(t, "size=1m"), dest+"-mount"); err != nil {
				t.Fatal(err)
			}
			bindMount(t, dest+"-mount", dest+sharedSuffix)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dest := filepath.Join(t.TempDir(), "dest")
			shared := dest + sharedSuffix
			mount(t, dest)
			// What a run that was killed left.
			if err := os.MkdirAll(shared+"/.stretcher-123/data", 0o755); err != nil {
				t.Fatal(err)
			}
			s := open(t, dest)
			if err := s.Clean(); err != nil {
				t.Fatal(err)
			}
			name, err := s.Make(t.Context(), treeOf(t, members...), id("x"), []string{"data", "link", "implicit", "none"}, nil)
			if err == nil {
				err = s.Switch(name, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			want := t.TempDir()
			if err := tartest.Extract(t, tartest.Make(t, members...), want); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(want + "/outside"); err != nil { // of which a copy stays in the release
				t.Fatal(err)
			}
			for _, p := range []string{"data", "implicit"} {
				tartest.CompareTrees(t, filepath.Join(want, p), filepath.Join(shared, p))
			}
			list, err := os.ReadDir(shared)
			if err != nil || len(list) != 4 {
				t.Errorf("shared are %v, %v", list, err)
			}
			if target, err := os.Readlink(shared + "/link"); target != "data" || err != nil {
				t.Errorf("the link leads to %s, %v", target, err)
			}
			if data, err := os.ReadFile(dest + "/outside"); string(data) != "x" || err != nil {
				t.Errorf("the other name has %q, %v", data, err)
			}
			for _, dir := range []string{shared, want} { // so that an ordinary user can remove it
				if err := os.Chmod(dir+"/data", 0o755); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// bindMount makes a directory that shows another one, for the time of the test.
func bindMount(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Mkdir(to, 0o755); err != nil {
		t.Fatal(err)
	}
	tartest.BindMount(t, from, to)
}

// What a program creates as a shared path meanwhile is not replaced.
func TestSharedAppears(t *testing.T) {
	t.Parallel()
	var members []tartest.Member
	for i := range 200 {
		members = append(members, tartest.Member{Name: fmt.Sprintf("data/%d", i), Body: "of the archive"})
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		dest := filepath.Join(t.TempDir(), "dest")
		data := filepath.Join(dest+sharedSuffix, "data")
		ended := make(chan struct{})
		appeared := make(chan bool)
		go func() {
			for {
				select {
				case <-ended:
					appeared <- false
					return
				default:
				}
				// While the archive's data is created beside it.
				if found, _ := filepath.Glob(dest + sharedSuffix + "/.stretcher-*"); len(found) > 0 {
					appeared <- os.Mkdir(data, 0o755) == nil
					return
				}
			}
		}()
		_, err := open(t, dest).Make(t.Context(), treeOf(t, members...), id("x"), []string{"data"}, nil)
		close(ended)
		if won := <-appeared; err != nil || won {
			if list, readErr := os.ReadDir(data); err != nil || readErr != nil || len(list) > 0 {
				t.Errorf("there are %d files, %v, in the directory of the program: %v", len(list), readErr, err)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Skip("this machine is too slow for the race")
		}
	}
}
