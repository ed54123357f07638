package treesync

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fujiwara/stretcher/internal/progress"
	"github.com/fujiwara/stretcher/internal/tartest"
)

// At the end of the comparison, all names and bytes of the tree have been counted
// once: those that are the same, repaired, replaced, created and linked.
func TestProgressComplete(t *testing.T) {
	t.Parallel()
	members := []tartest.Member{
		{Name: "dir/", Type: tDir, Mode: 0o755}, {Name: "dir/new", Body: "created"}, {Name: "link", Type: tSym, Body: "dir"},
		{Name: "newdir/sub/file", Body: strings.Repeat("x", 300_000)}, {Name: "replaces", Body: "a directory"},
		{Name: "differs at its end", Body: strings.Repeat("x", 200_000)}, {Name: "linked", Body: "same"}, {Name: "same", Body: "same"}, {Name: "mode", Body: "mode", Mode: 0o600},
	}
	dest := filepath.Join(t.TempDir(), "dest")
	makeFiles(t, dest, file{path: "dir/old"}, file{path: "replaces/x"}, file{path: "differs at its end", body: strings.Repeat("x", 199_999) + "y"},
		file{path: "linked", body: "same"}, file{path: "same", body: "same"}, file{path: "mode", body: "mode"})
	if err := os.Link(filepath.Join(dest, "linked"), filepath.Join(dest, "other")); err != nil {
		t.Fatal(err)
	}
	a := mustIndex(t, tartest.Make(t, members...))
	fd, compared := newSync(t, a, dest)
	if _, err := compared.compare(t.Context(), a.Tree.Root, fd); err != nil {
		t.Fatal(err)
	}
	defer compared.staging.remove()
	files, bytes := amountBelow(a.Tree.Root)()
	if want := fmt.Sprintf("%s, %d of %[2]d files, 0s", progress.Bytes(bytes, bytes), files); compared.done.String() != want {
		t.Errorf("got %s, expected %s", compared.done, want)
	}
}

// Each step of a sync that takes long is in the log, and so is unpacking. How long a
// step takes depends on the machine, so the test tries until each has taken long.
func TestProgressLogged(t *testing.T) {
	t.Parallel()
	random := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{}).Read(random)
	members := []tartest.Member{{Name: "linked", Body: "x"}, {Name: "again", Type: '1', Body: "linked"}, {Name: "big", Body: string(random)}}
	for n := range 200 {
		members = append(members, tartest.Member{Name: fmt.Sprintf("dir/%d", n), Body: "x"})
	}
	data := tartest.Make(t, members...)
	left := map[string]*regexp.Regexp{
		"Comparing and staging": regexp.MustCompile(`^.* of 4\.0 MiB \(\d+%\), \d+ of 204 files, 0s$`),
		"Putting in place":      regexp.MustCompile(`^\d+ of 204 files \(\d+%\), 0s$`),
		"Deleting":              regexp.MustCompile(`^(\d+ files, )?0s$`),
		"Extracting":            regexp.MustCompile(`^.* of 4\.0 MiB \(\d+%\), \d+ of 204 files, 0s$`),
	}
	var mu sync.Mutex
	report := progress.Reporter{Every: 20 * time.Microsecond, Log: func(line string) {
		mu.Lock()
		defer mu.Unlock()
		name, status, _ := strings.Cut(line, ": ")
		if want := left[name]; want != nil && want.MatchString(status) {
			delete(left, name)
		}
	}}
	for deadline := time.Now().Add(2 * time.Minute); len(left) > 0 && time.Now().Before(deadline); {
		dest := filepath.Join(t.TempDir(), "dest")
		for n := range 100 {
			makeFiles(t, dest, file{path: fmt.Sprintf("old/%d", n)}, file{path: fmt.Sprintf("dir/%d", n), body: "old"})
		}
		if _, err := syncBytes(t, Options{report: report}, data, dest); err != nil {
			t.Fatal(err)
		}
		if err := extract(t.Context(), mustIndex(t, data), t.TempDir(), report); err != nil {
			t.Fatal(err)
		}
	}
	for step, want := range left {
		t.Errorf("%s: nothing that matches %s", step, want)
	}
}
