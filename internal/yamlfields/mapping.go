package yamlfields

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// entry is a key of a mapping, its own or a merged one.
type entry struct {
	name       string
	key, value *yaml.Node
	from       *yaml.Node // the mapping that the key is written in
}

// entries returns the keys of a mapping with those that it merges.
func (d *decoder) entries(m *yaml.Node) []entry {
	s := search{d: d, index: map[string]int{}, done: map[*yaml.Node]bool{}}
	s.merge(m)
	return s.list
}

// search lists the keys of a mapping, then those of the mappings that it merges,
// each with what that one merges in turn. A key that is already listed is
// overridden.
type search struct {
	d     *decoder
	list  []entry
	index map[string]int
	// done has the mappings and lists that were searched. Searching one again
	// would find no key that is not listed.
	done map[*yaml.Node]bool
}

// merge adds the mapping, or the list of mappings, that n stands for.
func (s *search) merge(n *yaml.Node) {
	value := target(n)
	if s.done[value] {
		return
	}
	s.done[value] = true
	switch value.Kind {
	case yaml.MappingNode:
		s.mapping(value)
	case yaml.SequenceNode:
		for _, item := range value.Content {
			if m := target(item); m.Kind == yaml.MappingNode {
				s.merge(m)
			} else {
				s.d.problems.add(problem, item.Line, "<< merges a list that has %s in it, expected a list of maps", kind(m))
			}
		}
	default:
		s.d.problems.add(problem, n.Line, "<< merges %s, expected a map or a list of maps", kind(value))
	}
}

// mapping adds the keys of m and of what it merges.
func (s *search) mapping(m *yaml.Node) {
	var merges []*yaml.Node
	for i := 0; i < len(m.Content); i += 2 {
		e := entry{"", m.Content[i], m.Content[i+1], m}
		if isMerge(e.key) {
			if merges = append(merges, e.value); len(merges) > 1 {
				s.d.warnings.add(Duplicate, e.key.Line, "duplicate key <<: all are merged, the last one wins")
			}
			continue
		}
		text, ok := s.d.scalar(e.key)
		if !ok {
			s.d.problems.add(problem, e.key.Line, "%s is used as a key: put a text that begins with { or [ in quotes", kind(target(e.key)))
			continue
		}
		e.name = text.Text
		at, listed := s.index[e.name]
		switch {
		case !listed:
			s.index[e.name] = len(s.list)
			s.list = append(s.list, e)
		case s.list[at].from == m:
			s.d.warnings.add(Duplicate, e.key.Line, "duplicate key %s"+lastUsed, shown(e.name))
			s.list[at] = e
		}
	}
	for _, value := range slices.Backward(merges) {
		s.merge(value)
	}
}

// isMerge reports whether a key is <<, neither in quotes nor with another tag
// than !!merge.
func isMerge(key *yaml.Node) bool {
	return key.Kind == yaml.ScalarNode && key.Value == "<<" && key.Tag == "!!merge"
}

// suggestion returns ": did you mean NAME?" for the field whose name is nearest
// to an unknown key of the mapping at path, or "". The field may also be one of
// another level, if none of the own level is as near: it is named by its whole path
// then. At most two edits are allowed, and one for a name of three or four letters,
// which two edits would make any word.
func (d *decoder) suggestion(key, path string, fields []Field) string {
	if len(key) > 40 {
		return ""
	}
	nearest, least := "", 3
	try := func(f Field, name string) {
		if n := edits(strings.ToLower(key), strings.ToLower(f.Name)); n < least && n <= (len(f.Name)+1)/3 {
			nearest, least = name, n
		}
	}
	for _, f := range fields {
		try(f, f.Name)
	}
	for _, f := range d.fields {
		if path != "" {
			try(f, f.Name+" at the top level")
		}
		if below, ok := f.To.([]Field); ok && path != f.Name {
			for _, b := range below {
				try(b, f.Name+"."+b.Name)
			}
		}
	}
	if nearest == "" {
		return ""
	}
	return ": did you mean " + nearest + "?"
}

// edits returns the Damerau-Levenshtein distance of two words (optimal string
// alignment): how many bytes have to be inserted, deleted, replaced, or swapped
// with the next one.
func edits(a, b string) int {
	// d[i][j] is the distance of a[:i] and b[:j].
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		for j := range d[i] {
			if i == 0 || j == 0 {
				d[i][j] = i + j
				continue
			}
			d[i][j] = min(d[i-1][j], d[i][j-1]) + 1
			if a[i-1] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-1][j-1])
			} else {
				d[i][j] = min(d[i][j], d[i-1][j-1]+1)
			}
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
