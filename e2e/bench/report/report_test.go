package report

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// example returns a report in which each goal is met, but with figures that were never
// measured.
func example() *Report {
	r := &Report{Machine: []Fact{{"Processor", "an example | of a processor"}}}
	var order []string
	for _, g := range Goals {
		p := r.Part(g.Part)
		if p == nil {
			p = NewPart(g.Part)
			p.Began, p.Commit = time.Date(2026, 11, 30, 3, 5, 0, 0, time.UTC), "0123456789ab"
			order = append(order, g.Part)
			r.Replace(p, order)
		}
		p.Results[g.Case] = g.Limit
	}
	for part, seconds := range map[string]float64{"deploy": 1, "network": 8} {
		for i, change := range []string{"fresh", "unchanged", "1 % changed"} {
			p := r.Part(part).Points
			p[change+", gzip, by hand"] = seconds * (4 - float64(i)/2)
			p[change+", packed, by hand"] = seconds * (3.5 - float64(i)/2)
			p[change+", packed, builtin"] = seconds * (1 - float64(i)*0.45)
		}
	}
	p := r.Part("bytes").Points
	p["gzip"], p["whole"] = 66.7, 64.1
	for i, share := range []string{"0 %", "0.1 %", "0.3 %", "1 %", "3 %", "10 %", "30 %", "100 %"} {
		p["with patches, "+share] = []float64{0.42, 0.43, 0.46, 0.53, 0.8, 1.6, 4, 12}[i]
		p["without patches, "+share] = []float64{0.42, 1, 2, 4, 9, 21, 45, 64}[i]
	}
	for i, pair := range []string{"node_modules of next 16.4.5 to 16.4.6", "caddy 2.11.8 to 2.11.9, one binary", "Go 1.26.7 to 1.26.8", "Debian package python3-django, 3:3.2.25-0+deb12u3 to 3:3.2.25-0+deb12u7"} {
		p["pair, "+pair] = []float64{7.7, 18.1, 1.6, 2.6}[i]
	}
	p = r.Part("growth").Points
	for _, change := range []string{"fresh", "unchanged"} {
		for i, files := range []string{"1000", "10000", "100000"} {
			scale := []float64{0.02, 0.15, 1.4}[i]
			for j, side := range []string{"by hand", "default", "builtin"} {
				p["time, "+change+", "+side+", "+files] = scale * (3 - float64(j)) / float64(1+len(change)%5)
				p["CPU, "+change+", "+side+", "+files] = scale * (4 - float64(j)) / float64(1+len(change)%5)
				p["memory, "+change+", "+side+", "+files] = 18 + 30*scale
			}
		}
	}
	r.Part("pack").Blocks = []Block{{Text: "A paragraph."}, {Code: "a script"}, {Table: [][]string{{"", "size"}, {"pack", "1 MB"}}}}
	return r
}

func (r *Report) mustPage(t *testing.T) string {
	t.Helper()
	files, err := r.Files()
	if err != nil {
		t.Fatal(err)
	}
	return string(files[pageName])
}

func TestFiles(t *testing.T) {
	t.Parallel()
	files, err := example().Files()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if len(content) == 0 {
			t.Errorf("%s is empty", name)
		}
	}
	for _, p := range pictures {
		if !bytes.Contains(files[p.file], []byte("</svg>")) {
			t.Errorf("%s is not a picture", p.file)
		}
	}
	again, err := example().Files()
	if err != nil {
		t.Fatal(err)
	}
	if !maps.EqualFunc(files, again, bytes.Equal) {
		t.Error("the same figures give different files")
	}
	page := string(files[pageName])
	for _, want := range []string{
		`| Processor | an example \| of a processor |`, "A paragraph.\n", "```sh\na script\n```", "| | size |\n| --- | --- |\n| pack | 1 MB |",
		" 0 missed, 0 not measured.", "2026-11-30 03:05", "0123456789ab",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not contain %q", want)
		}
	}
	wantRows(t, page)
}

// wantRows fails the test unless the page has a row for each goal.
func wantRows(t *testing.T, page string) {
	t.Helper()
	for _, g := range Goals {
		if !strings.Contains(page, "| "+g.Case+" | "+g.String()+" |") {
			t.Errorf("the page has no row for %s, %s", g.Part, g.Case)
		}
		if title(g.Part) == "" {
			t.Errorf("the part %s has no title", g.Part)
		}
	}
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	r := example()
	r.Part("pack").Results["speed"] = 14.9
	r.Part("pack").Results["size"] = 1.051
	// Two goals are missed for the same reason.
	r.Part("deploy").Results["fresh, zstd, builtin"] = 0.37
	r.Part("deploy").Results["unchanged, zstd, builtin"] = 0.43
	delete(r.Part("bytes").Results, "Go tree, unchanged")
	r.Part("bytes").Missing["Go tree, unchanged"] = "there is no tree"
	delete(r.Part("window").Results, "builtin")
	r.Part("window").Problem = "it ended early"
	delete(r.Part("network").Points, "fresh, packed, builtin")
	page := r.mustPage(t)
	for _, want := range []string{
		" 4 missed, 2 not measured.",
		"| speed | at least 15 MB/s and core | 14.9 MB/s and core | **missed** |",
		"| size | at most 1.05 of gzip -6 | 1.051 of gzip -6 | **missed** |",
		"- bytes, Go tree, unchanged (at most 1 times the index, not measured): there is no tree.",
		"- window, builtin (at most 0.1 of rsync, not measured): it ended early.",
		"The plot images/time.svg is missing",
		"- deploy, fresh, zstd, builtin (at most 0.36 of by hand, missed); deploy, unchanged, zstd, builtin (at most 0.42 of by hand, missed): " + oneFrame + ".\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not contain %q", want)
		}
	}
	if missed, notMeasured := r.Count([]string{"pack", "bytes"}); missed != 2 || notMeasured != 1 {
		t.Errorf("%d missed, %d not measured", missed, notMeasured)
	}
	if strings.Contains(page, "](images/time.svg)") {
		t.Error("the page shows a plot of figures that were not measured")
	}
	wantRows(t, page)
}

// The page in the repository has every goal, and is made of the figures beside it.
func TestPage(t *testing.T) {
	t.Parallel()
	const docs = "../../../docs"
	r, err := Read(docs)
	if err != nil {
		t.Fatal(err)
	}
	files, err := r.Files()
	if err != nil {
		t.Fatal(err)
	}
	wantRows(t, string(files[pageName]))
	for name, want := range files {
		if strings.HasSuffix(name, ".svg") && runtime.GOARCH != "amd64" {
			continue // others may round differently
		}
		got, err := os.ReadFile(filepath.Join(docs, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("docs/%s is not made of the figures in docs/%s: run (cd e2e && go run ./bench -only= -page)", name, dataName)
		}
	}
}

// What Write has written, Read reads.
func TestWrite(t *testing.T) {
	t.Parallel()
	docs, want := t.TempDir(), example()
	if err := want.Write(docs); err != nil {
		t.Fatal(err)
	}
	got, err := Read(docs)
	if err != nil {
		t.Fatal(err)
	}
	if got.mustPage(t) != want.mustPage(t) {
		t.Error("the page of the figures that were read is another one")
	}
	for _, p := range pictures {
		if _, err := os.Stat(filepath.Join(docs, p.file)); err != nil {
			t.Error(err)
		}
	}
	if r, err := Read(t.TempDir()); err != nil || len(r.Parts) != 0 {
		t.Errorf("read of nothing: %v, %v", r, err)
	}
}
