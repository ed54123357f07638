package yamlfields

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Result is what Decode found in a document, besides the values of the fields.
type Result struct {
	// Warnings are about parts of the document that are ignored, or that a function
	// of a field refuses. Problems are about what cannot be decoded. Both are in the
	// order of their lines, and without duplicates.
	Warnings, Problems []Warning

	places map[string]*place
}

// place is where a key is, and its value.
type place struct {
	line  int   // of the value if that is a scalar, or else of the key
	items []int // the lines of the items of a list
	wrong bool  // there are problems in the value
}

// Wrong reports whether there is a problem in the value of the key at path, such as
// "commands.pre". The path "" is the document: Wrong("") reports that nothing of it
// could be decoded.
func (r *Result) Wrong(path string) bool {
	at := r.places[path]
	return at != nil && at.wrong
}

// Line returns the line of the key at path, or that of an item of its list, counted
// from 0. The path of a variable in a map is that of the map, a dot and its name.
// If the document has no such key, the line is that of the nearest mapping that
// could have it: of the key before the last dot, or of the document.
func (r *Result) Line(path string, item ...int) int {
	at := r.places[path]
	switch {
	case at != nil && len(item) > 0 && item[0] < len(at.items):
		return at.items[item[0]]
	case at != nil:
		return at.line
	case path == "": // not made by Decode
		return 1
	}
	return r.Line(path[:max(strings.LastIndexByte(path, '.'), 0)])
}

// Renumber replaces all lines, for a document that was made from another text.
func (r *Result) Renumber(line func(int) int) {
	for _, list := range [][]Warning{r.Warnings, r.Problems} {
		for i := range list {
			list[i].Line = line(list[i].Line)
		}
	}
	for _, at := range r.places {
		at.line = line(at.line)
		for i := range at.items {
			at.items[i] = line(at.items[i])
		}
	}
}

// Err returns the problems as one error of a single line, as "line 2: ...; line 5:
// ...", nil if there are none. It has those that Listed returns.
func (r *Result) Err() error {
	if len(r.Problems) == 0 {
		return nil
	}
	var texts []string
	for _, p := range Listed(r.Problems) {
		texts = append(texts, p.String())
	}
	return errors.New(strings.Join(texts, "; "))
}

// Kind tells warnings apart.
type Kind int

// The kinds of warnings.
const (
	Unknown   Kind = iota // an unknown key
	Duplicate             // a key that is set again
	Document              // a second document
	Lost                  // the beginning of a text, which YAML takes for a tag or an anchor
	Doubtful              // a value of which the function of its field warns
	Invalid               // a value that the function of its field refuses
	problem               // one of Problems
)

// Warning is about a part of the document.
type Warning struct {
	Kind Kind
	Line int // counted from 1; 0 for a Text that stands for several lines
	Text string
}

func (w Warning) String() string {
	if w.Line == 0 {
		return w.Text
	}
	return fmt.Sprintf("line %d: %s", w.Line, w.Text)
}

// Refused returns w for a caller that does not accept such a document: the text does
// not say what is done with that part.
func (w Warning) Refused() Warning {
	w.Text = strings.NewReplacer(ignored, "", lastUsed, "").Replace(w.Text)
	return w
}

const (
	ignored  = " is ignored"
	lastUsed = ": the last value is used"
)

// maxReport is the number of problems, and of warnings of a kind, that are listed.
const maxReport = 10

// maxKept bounds the memory for them.
const maxKept = 100_000

// report is a list of warnings or problems.
type report []Warning

func (r *report) add(kind Kind, line int, format string, args ...any) {
	if len(*r) < maxKept {
		*r = append(*r, Warning{kind, line, fmt.Sprintf(format, args...)})
	}
}

// sorted returns the list in the order of the lines, and without duplicates: a
// mapping that is merged into several others may cause the same warning several
// times.
func (r report) sorted() []Warning {
	slices.SortFunc(r, func(a, b Warning) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Text, b.Text))
	})
	return slices.Compact(r)
}

// Listed returns the first 10 warnings of each kind, followed by one that says how
// many more there are.
func Listed(all []Warning) (list []Warning) {
	count := map[Kind]int{}
	for _, w := range all {
		if count[w.Kind]++; count[w.Kind] <= maxReport {
			list = append(list, w)
		}
	}
	for i, of := range [...]string{Unknown: "unknown key", Duplicate: "duplicate key", Document: "document", Lost: "unquoted text", Doubtful: "doubtful value", Invalid: "invalid value", problem: "problem"} {
		kind := Kind(i)
		more := count[kind] - maxReport
		if more <= 0 {
			continue
		}
		if more > 1 {
			of += "s"
		}
		list = append(list, Warning{Kind: kind, Text: fmt.Sprintf("and %d more %s", more, of)})
	}
	return list
}
