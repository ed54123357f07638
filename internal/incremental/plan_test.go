package incremental

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/fujiwara/stretcher/internal/seekable"
	"github.com/fujiwara/stretcher/internal/tartest"
)

// A large new file is fetched as a patch without a base if that is smaller than all the
// data frames that the file is cut into.
func TestLargeNewFile(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(9, 9))
	older, newer := t.TempDir(), t.TempDir()
	kept := tartest.Text(rng, 1<<20)
	for _, dir := range []string{older, newer} {
		tartest.WriteFile(t, dir, "kept", kept)
	}
	var contents []byte // what repeats is too far away for a data frame
	lines := slices.Collect(slices.Chunk(tartest.Text(rng, 400_000), 200))
	for len(contents) < 3<<20 {
		contents = append(contents, lines[rng.IntN(len(lines))]...)
	}
	tartest.WriteFile(t, newer, "new", contents)
	v, plain := packed(t, newer, older), packed(t, newer)
	got, err := v.open(t, older, v.fetch)
	if err != nil {
		t.Fatal(err)
	}
	want, err := plain.open(t, older, plain.fetch)
	if err != nil {
		t.Fatal(err)
	}
	if got.Fetched > want.Fetched/2 || got.New != 1 {
		t.Errorf("with patches %+v, without %+v", got, want)
	}
}

// Patches without a base are used where they save more than they cost.
func TestGroups(t *testing.T) {
	t.Parallel()
	// Each of the frames has 100 bytes and two pieces.
	h := &had{scattered: &scattered{index: &seekable.Index{Frames: slices.Repeat([]seekable.Frame{{Size: 100}}, 10)}}}
	base := seekable.Base{FileSize: 1}
	for _, test := range []struct {
		name    string
		usable  []seekable.Patch
		patches map[int]int // by piece
		want    string
	}{
		{"no patches", nil, nil, "[{[0] false} {[1] false} {[2] false}]"},
		{"of small files", []seekable.Patch{{Size: 49}, {Size: 50}, {Size: 50}, {Size: 50}}, map[int]int{0: 0, 1: 1, 2: 2, 3: 3}, "[{[0] true} {[1] false} {[2] false}]"},
		{"of one file of a frame", []seekable.Patch{{Size: 1}}, map[int]int{0: 0}, "[{[0] false} {[1] false} {[2] false}]"},
		{"of one file, the other has a base", []seekable.Patch{{Size: 1}, {Size: 1, Base: base}}, map[int]int{0: 0, 1: 1}, "[{[0] true} {[1] false} {[2] false}]"},
		{"of a large file", []seekable.Patch{{Size: 299}}, map[int]int{0: 0, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0}, "[{[0 1 2] true}]"},
		{"that is too large", []seekable.Patch{{Size: 300}}, map[int]int{0: 0, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0}, "[{[0 1 2] false}]"},
		{"over a frame that is needed", []seekable.Patch{{Size: 200}}, map[int]int{1: 0, 2: 0, 3: 0, 4: 0, 5: 0}, "[{[0 1 2] false}]"},
		{"that overlap", []seekable.Patch{{Size: 100}, {Size: 150}}, map[int]int{0: 0, 1: 0, 2: 0, 3: 1, 4: 1, 5: 1}, "[{[0 1 2] true}]"},
		{"with bases", []seekable.Patch{{Size: 100, Base: base}}, map[int]int{0: 0, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0}, "[{[0] false} {[1] false} {[2] false}]"},
	} {
		missing := map[int][]int{0: {0, 1}, 1: {2, 3}, 2: {4, 5}}
		if got := fmt.Sprint(h.groups(test.usable, missing, test.patches)); got != test.want {
			t.Errorf("%s: %s, expected %s", test.name, got, test.want)
		}
	}
}
