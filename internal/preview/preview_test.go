package preview

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestWrite(t *testing.T) {
	t.Parallel()
	items := []Item{
		{Kind: Change, Path: ".", Dir: true, Differs: []string{"mode 0700 -> 0755", "time"}},
		{Kind: Create, Path: "new/file\n[ERROR] x", Bytes: 1000},
		{Kind: Create, Path: "new", Dir: true},
		{Kind: Delete, Path: "old", Dir: true},
		{Kind: Change, Path: "a", Differs: []string{"contents"}, Bytes: 24},
	}
	var out bytes.Buffer
	total, err := Write(&out, slices.Values(items))
	const want = "would change ./: mode 0700 -> 0755, time\nwould create new/file\\n[ERROR] x\nwould create new/\nwould delete old/\nwould change a: contents\n"
	if err != nil || out.String() != want {
		t.Errorf("got %q, %v", out.String(), err)
	}
	if got := total.In("/srv/app"); got != "2 would be created, 2 changed, 1 deleted in /srv/app, 1.0 KiB written" {
		t.Errorf("got %q", got)
	}
}

func TestComparePaths(t *testing.T) {
	t.Parallel()
	sorted := []string{".", " ", "-", ".a", "a", "a/b", "a/b/c", "a/b c", "a b", "a.b", "ab", "b"}
	for i, a := range sorted {
		for j, b := range sorted {
			want := min(max(i-j, -1), 1)
			if got := ComparePaths(a, b); got != want {
				t.Errorf("%q, %q: got %d, expected %d", a, b, got, want)
			}
		}
	}
}

// The order is that of the lists of names.
func FuzzComparePaths(f *testing.F) {
	f.Add("a/b", "a.b", "a")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		for _, p := range []string{a, b, c} {
			if p == "." || p == "" || strings.Contains("/"+p+"/", "//") {
				t.Skip()
			}
		}
		if got, want := ComparePaths(a, b), slices.Compare(strings.Split(a, "/"), strings.Split(b, "/")); got != want {
			t.Errorf("%q, %q: got %d, expected %d", a, b, got, want)
		}
		if ComparePaths(a, b) != -ComparePaths(b, a) {
			t.Errorf("%q, %q: not antisymmetric", a, b)
		}
		if ComparePaths(a, b) <= 0 && ComparePaths(b, c) <= 0 && ComparePaths(a, c) > 0 {
			t.Errorf("%q, %q, %q: not transitive", a, b, c)
		}
	})
}
