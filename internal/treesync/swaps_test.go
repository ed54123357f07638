package treesync

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/fujiwara/stretcher/internal/tartest"
)

// swapDirs keeps replacing the directories d0 to d19 of dir, or their directory e, by
// symbolic links to canary or canary/e, until stop is called, which returns how many it
// replaced. With putBack, a directory comes back at once.
func swapDirs(t *testing.T, dir, canary string, putBack bool) (stop func() int) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int)
	go func() {
		n := 0
		for ctx.Err() == nil {
			for i := range 20 {
				// Only one of the two, since with both the rename of the lower one
				// could go through the link in the place of the upper one.
				victim, target := filepath.Join(dir, "d"+strconv.Itoa(i)), canary
				if i%2 == 0 {
					victim, target = victim+"/e", canary+"/e"
				}
				if os.Rename(victim, victim+".away") != nil || os.Symlink(target, victim) != nil {
					continue
				}
				n++
				if putBack { // so that the next round can replace it again
					os.Remove(victim)
					os.Rename(victim+".away", victim)
				}
			}
		}
		done <- n
	}()
	return func() int {
		cancel()
		return <-done
	}
}

// Another process that may write to the directory keeps replacing directories in
// it by symbolic links to another directory, to which nothing may be written.
func TestExtractAgainstSwaps(t *testing.T) {
	t.Parallel()
	var members []tartest.Member
	for i := range 20 {
		for j := range 20 {
			members = append(members, tartest.Member{Name: fmt.Sprintf("d%d/e/f%d", i, j), Body: "x", Mode: 0o666})
		}
		members = append(members, tartest.Member{Name: fmt.Sprintf("d%d/e/", i), Type: tar.TypeDir, Mode: 0o777})
		members = append(members, tartest.Member{Name: fmt.Sprintf("d%d/h", i), Type: tar.TypeLink, Body: "d0/e/f0"})
	}
	a := mustIndex(t, tartest.Make(t, members...))
	base := t.TempDir()
	canary := filepath.Join(base, "canary")
	makeFiles(t, canary, file{path: "e/f0", body: "canary", mode: 0o600})
	before := tartest.Snapshot(t, canary)
	var swapped, refused int
	for round := range 30 {
		dir := filepath.Join(base, "dir"+strconv.Itoa(round))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		stop := swapDirs(t, dir, canary, false)
		if err := Extract(t.Context(), a, dir); err != nil {
			refused++
		}
		swapped += stop()
	}
	tartest.CompareSnapshots(t, before, tartest.Snapshot(t, canary))
	if swapped == 0 {
		t.Error("nothing was swapped: the test shows nothing")
	}
	t.Logf("%d swaps, %d of 30 extractions failed", swapped, refused)
}

// While dest is synced, another process that may write to it keeps replacing its
// directories by symbolic links.
func TestSyncAgainstSwaps(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	canary, dest := filepath.Join(base, "canary"), filepath.Join(base, "dest")
	makeFiles(t, canary, file{path: "e/f0", body: "canary"}, file{path: "other", body: "canary"})
	before := tartest.Snapshot(t, canary)
	archives := [2][]byte{}
	for generation := range archives {
		var members []tartest.Member
		for i := range 20 {
			for j := range 10 {
				members = append(members, tartest.Member{Name: fmt.Sprintf("d%d/e/f%d", i, j+generation), Body: fmt.Sprint(generation), Mode: 0o666})
			}
		}
		archives[generation] = tartest.Make(t, members...)
	}
	if _, err := syncBytes(t, Options{}, archives[1], dest); err != nil {
		t.Fatal(err)
	}
	stop := swapDirs(t, dest, canary, true)
	refused := 0
	for round := range 40 {
		if err := Sync(t.Context(), mustIndex(t, archives[round%2]), dest, Options{Mode: 0o755, log: log.New(io.Discard, "", 0)}); err != nil {
			refused++
		}
	}
	swapped := stop()
	tartest.CompareSnapshots(t, before, tartest.Snapshot(t, canary))
	if swapped == 0 {
		t.Error("nothing was swapped: the test shows nothing")
	}
	t.Logf("%d swaps, %d of 40 syncs failed", swapped, refused)
}
