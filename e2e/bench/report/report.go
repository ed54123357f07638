// Package report keeps what the bench has measured, and makes docs/performance.md and
// its plots of it. The same figures always give the same files.
package report

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Report is everything that the bench has measured on one machine.
type Report struct {
	Machine []Fact
	Parts   []*Part
}

// Fact is a property of the machine.
type Fact struct{ Name, Value string }

// Part is what one part of the bench has measured.
type Part struct {
	Name   string
	Began  time.Time
	Took   string
	Commit string
	Load   string // the load average when it began
	Runs   int    // how often each time was measured
	Blocks []Block

	// Problem is why the part ended early, or empty.
	Problem string `json:",omitempty"`
	// Results has a figure for each case of the part for which there is a goal.
	Results map[string]float64
	// Missing says of other such cases why there is none.
	Missing map[string]string `json:",omitempty"`
	// Points are the figures for the plots.
	Points map[string]float64
}

// Block is a paragraph, a script or a table of a part.
type Block struct {
	Text  string     `json:",omitempty"`
	Code  string     `json:",omitempty"`
	Table [][]string `json:",omitempty"` // the first row has the titles
}

// NewPart returns a part without figures.
func NewPart(name string) *Part {
	return &Part{Name: name, Results: map[string]float64{}, Missing: map[string]string{}, Points: map[string]float64{}}
}

// Part returns the part with the name, or nil.
func (r *Report) Part(name string) *Part {
	for _, p := range r.Parts {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// Replace adds the part, or replaces the one of its name. Parts are kept in the order
// of their names in order.
func (r *Report) Replace(part *Part, order []string) {
	r.Parts = slices.DeleteFunc(r.Parts, func(p *Part) bool { return p.Name == part.Name })
	r.Parts = append(r.Parts, part)
	slices.SortStableFunc(r.Parts, func(a, b *Part) int {
		return cmp.Compare(slices.Index(order, a.Name), slices.Index(order, b.Name))
	})
}

// Names of the files in the directory docs.
const (
	dataName = "performance.json"
	pageName = "performance.md"
)

// Read reads the figures that are kept in the directory docs, from which the page
// there was made. If there are none, the report is empty.
func Read(docs string) (*Report, error) {
	r := &Report{}
	data, err := os.ReadFile(filepath.Join(docs, dataName))
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("parse %s: %w", filepath.Join(docs, dataName), err)
	}
	return r, nil
}

// Write writes the figures, the page and its plots to the directory docs.
func (r *Report) Write(docs string) error {
	files, err := r.Files()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(docs, "images"), 0o755); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(docs, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Files returns the contents of all files that Write writes, by their names.
func (r *Report) Files() (map[string][]byte, error) {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{dataName: append(data, '\n')}
	var shown []picture
	for _, p := range pictures {
		svg, err := p.draw(r)
		if errors.Is(err, errNotMeasured) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("draw %s: %w", p.file, err)
		}
		files[p.file] = svg
		shown = append(shown, p)
	}
	files[pageName] = r.page(shown)
	return files, nil
}
