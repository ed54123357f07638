// Package yamlfields decodes a YAML mapping into variables that a table names.
// It takes from yaml.v3 only the parser, and interprets the nodes itself, for
// three reasons: the text of a scalar stays as it is written ("0755", "1.50",
// "true"), as yaml.v2 decodes it into a string; a merge key follows its
// specification (https://yaml.org/type/merge.html); and no value of the document
// appears in an error or a warning, since the document may be any file of the
// host.
//
// Decode works as follows:
//
//	parse the first document; if that fails, reword the error and find its line
//	walk over all nodes once: note which anchors are referenced,
//	  and refuse an alias inside of the value that it refers to
//	mapping(root, fields):
//	  list the entries of the mapping: first its own keys, the last of equal
//	    ones, then recursively those of its merge keys that are not yet listed
//	  for each entry:
//	    decode the value into the variable of the field, by the variable's type;
//	      a nested table of fields is decoded by mapping
//	    warn of a key that no field has
//	sort warnings and problems by line, and join the problems to one error
//
// The work is linear in the size of the document, whatever its aliases are: the
// entries of a mapping are listed once for each field, a mapping that is merged
// several times is read once, and an alias in a list has to refer to a scalar.
package yamlfields

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Field says where the value of a key goes.
type Field struct {
	// Name is the key.
	Name string
	// To is one of:
	//
	//	*string             a scalar; null is ""
	//	*[]string           a list of scalars; null is nil, a null item is ""
	//	*map[string]string  a mapping to scalars; null is nil, a null value is ""
	//	[]Field             a mapping with these keys; null changes nothing
	//	func([]string)      called with a list of scalars, as *[]string gets it
	//	func(Scalar) error  called with a scalar, but not with null
	//
	// An error of the function has to be one line that continues a sentence
	// which begins with the key, such as "is not a number".
	To any
	// Item is a noun for an item of a list, such as "command", that follows "a"
	// in errors.
	Item string
}

// Scalar is a value that is not a list, a mapping or null.
type Scalar struct {
	// Text is the value as it is written, without quotes. A !!binary value is
	// decoded.
	Text string
	// Quoted reports that the value is a text, and not a number for example,
	// whatever it looks like: it is in quotes, a block (| or >), or has a tag
	// such as !!str.
	Quoted bool
	// Line is the line of the value, or of the alias that refers to it.
	Line int
}

// Kind tells warnings apart.
type Kind int

// The kinds of warnings.
const (
	Unknown   Kind = iota // an unknown key
	Duplicate             // a key that is set again
	Document              // a second document
	Lost                  // the beginning of a text, which YAML takes for a tag or an anchor
	problem               // an error
)

// Warning is about a part of the document that Decode ignores.
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

// Refusal returns the text of a warning for a caller that does not accept such a
// document: it does not say what is done with that part.
func (w Warning) Refusal() string {
	return done.Replace(w.String())
}

var done = strings.NewReplacer(ignored, "", lastUsed, "")

const (
	ignored  = " is ignored"
	lastUsed = ": the last value is used"
)

// Decode decodes the first document of data. Fields without a key in the document
// keep their values, so an empty document is valid.
//
// Unknown keys, all but the last of duplicate keys, and further documents are
// ignored with a warning. There is none for an unknown key of the outermost
// mapping that begins with "x-" or ".", or that has an anchor which is referenced.
//
// The error is a single line, with all problems in the order of their lines, as
// "line 2: ...; line 5: ...". After an error, some of the fields have been set.
// Neither the error nor the warnings contain anything of data but keys that
// consist of at most 40 letters, digits, "_" and "-", and, where at least two keys
// are known, so that data is no arbitrary file, texts that stand where a list of
// them should be. At most 10 problems, and 10 warnings of each kind, are listed,
// followed by one that says how many more there are.
func Decode(data []byte, fields []Field) ([]Warning, error) {
	d := &decoder{data: data, referenced: map[*yaml.Node]bool{}}
	if root := d.parse(); root != nil {
		d.walk(root, map[*yaml.Node]bool{})
		if len(d.problems) == 0 {
			d.fields = fields
			d.quote = d.known(root, fields) >= 2
			d.mapping(root, "", fields)
		}
	}
	if len(d.problems) == 0 {
		return d.warnings.listed(), nil
	}
	var texts []string
	for _, p := range d.problems.listed() {
		texts = append(texts, p.String())
	}
	return d.warnings.listed(), errors.New(strings.Join(texts, "; "))
}

type decoder struct {
	data               []byte
	lines              [][]rune            // of data, where they have been needed
	fields             []Field             // those of the document
	quote              bool                // whether values may be quoted
	referenced         map[*yaml.Node]bool // the nodes that aliases refer to
	warnings, problems report
}

// walk visits all nodes below n. open has the nodes that n is inside of: every
// cycle of aliases has one that refers to such a node.
func (d *decoder) walk(n *yaml.Node, open map[*yaml.Node]bool) {
	if n.Kind == yaml.AliasNode {
		d.referenced[n.Alias] = true
		if open[n.Alias] {
			d.problems.add(problem, n.Line, "an alias refers to a value that contains it")
		}
		return
	}
	open[n] = true
	for _, child := range n.Content {
		d.walk(child, open)
	}
	delete(open, n)
}

// known counts the keys below n, of all levels of fields, that are fields.
func (d *decoder) known(n *yaml.Node, fields []Field) int {
	n = target(n)
	count := 0
	for i := 0; n.Kind == yaml.MappingNode && i < len(n.Content); i += 2 {
		for _, f := range fields {
			if f.Name == n.Content[i].Value {
				count++
				if below, ok := f.To.([]Field); ok {
					count += d.known(n.Content[i+1], below)
				}
			}
		}
	}
	return count
}

// mapping decodes n into fields. path is the key of n, "" for the document.
func (d *decoder) mapping(n *yaml.Node, path string, fields []Field) {
	value := target(n)
	switch {
	case isNull(value):
	case value.Kind == yaml.MappingNode:
		for _, e := range d.entries(value) {
			i := slices.IndexFunc(fields, func(f Field) bool { return f.Name == e.name })
			switch {
			case i >= 0 && path == "":
				d.field(e.value, e.name, fields[i])
			case i >= 0:
				d.field(e.value, path+"."+e.name, fields[i])
			case path == "" && (strings.HasPrefix(e.name, "x-") || strings.HasPrefix(e.name, ".") || d.referenced[e.value]):
			default:
				d.warnings.add(Unknown, e.key.Line, "unknown key %s"+ignored+"%s", shown(e.name), d.suggestion(e.name, path, fields))
			}
		}
	case path == "":
		d.problems.add(problem, n.Line, "%s, expected the keys of a manifest%s", kind(value), d.documentHint(value))
	default:
		var names []string
		for _, f := range fields {
			names = append(names, f.Name)
		}
		d.problems.add(problem, n.Line, "%s is %s, expected the keys %s", path, kind(value), strings.Join(names, ", "))
	}
}

// field decodes n, the value of the key path, into the variable of f.
func (d *decoder) field(n *yaml.Node, path string, f Field) {
	value := target(n)
	d.warnLost(n, path)
	switch to := f.To.(type) {
	case *string:
		if s, ok := d.scalar(n); ok {
			*to = s.Text
		} else {
			d.problems.add(problem, n.Line, "%s is %s, expected a text", path, kind(value))
		}
	case func(Scalar) error:
		s, ok := d.scalar(n)
		switch {
		case !ok:
			d.problems.add(problem, n.Line, "%s is %s, expected a text", path, kind(value))
		case !isNull(value):
			if err := to(s); err != nil {
				d.problems.add(problem, n.Line, "%s %v", path, err)
			}
		}
	case *[]string:
		*to = d.list(n, path, f.Item)
	case func([]string):
		to(d.list(n, path, f.Item))
	case *map[string]string:
		*to = nil
		switch {
		case isNull(value):
		case value.Kind == yaml.MappingNode:
			*to = map[string]string{}
			for _, e := range d.entries(value) {
				s, ok := d.scalar(e.value)
				if !ok {
					d.problems.add(problem, e.value.Line, "%s: %s is %s, expected a text", path, shown(e.name), kind(target(e.value)))
				}
				d.warnLost(e.value, path+": "+shown(e.name))
				(*to)[e.name] = s.Text
			}
		default:
			d.problems.add(problem, n.Line, `%s is %s, expected a map: write it as "NAME: value" on lines of their own`, path, kind(value))
		}
	case []Field:
		d.mapping(n, path, to)
	default:
		panic(fmt.Sprintf("yamlfields: field %s has a target of the unsupported type %T", f.Name, f.To))
	}
}

// list decodes n, the value of the key path, as a list of scalars.
func (d *decoder) list(n *yaml.Node, path, item string) (list []string) {
	value := target(n)
	switch {
	case isNull(value):
	case value.Kind == yaml.SequenceNode:
		list = make([]string, 0, len(value.Content))
		for _, node := range value.Content {
			s, ok := d.scalar(node)
			if !ok {
				d.problems.add(problem, node.Line, "%s has %s where a %s should be%s", path, kind(target(node)), item, d.itemHint(target(node), item))
			}
			d.warnLost(node, fmt.Sprintf("%s has a %s that", path, item))
			list = append(list, s.Text)
		}
	default:
		d.problems.add(problem, n.Line, "%s is %s, expected a list: %s", path, kind(value), d.listHint(value, item))
	}
	return list
}

// scalar returns the value of a scalar, whose Text is "" for null. ok is false
// for a list or a mapping.
//
// Tags other than !!binary do not change the text.
func (d *decoder) scalar(n *yaml.Node) (s Scalar, ok bool) {
	line := n.Line
	n = target(n)
	switch {
	case n.Kind != yaml.ScalarNode:
		return Scalar{}, false
	case isNull(n):
		return Scalar{Line: line}, true
	case n.Tag == "!!binary":
		data, err := base64.StdEncoding.DecodeString(n.Value)
		if err != nil {
			d.problems.add(problem, n.Line, "a !!binary value is not valid base64")
		}
		// Decode a value only once: many aliases may refer to a long one.
		n.Value, n.Tag = string(data), "!!str"
	}
	quoted := n.Style&quotedStyle != 0
	if n.Style&yaml.TaggedStyle != 0 {
		quoted = !slices.Contains([]string{"!!int", "!!float", "!!bool", "!!null", "!!timestamp"}, n.Tag)
	}
	return Scalar{n.Value, quoted, line}, true
}

// quotedStyle has the styles of a scalar that is not plain.
const quotedStyle = yaml.DoubleQuotedStyle | yaml.SingleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle

// target returns the node that n stands for.
func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null" && slices.Contains([]string{"", "~", "null", "Null", "NULL"}, n.Value)
}

func kind(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a map"
	case yaml.SequenceNode:
		return "a list"
	}
	return "a text"
}

var name = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,39}$`)

// shown returns a key for an error or a warning. A key may be a secret, unless
// it looks like a name.
func shown(key string) string {
	if name.MatchString(key) {
		return key
	}
	return "(not a name)"
}

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

// listed returns what is to be shown, in the order of the lines, and without
// duplicates: a mapping that is merged into several others may cause the same
// warning several times.
func (r report) listed() []Warning {
	slices.SortFunc(r, func(a, b Warning) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Text, b.Text))
	})
	var list []Warning
	count := map[Kind]int{}
	for _, w := range slices.Compact(r) {
		if count[w.Kind]++; count[w.Kind] <= maxReport {
			list = append(list, w)
		}
	}
	for i, of := range [...]string{Unknown: "unknown key", Duplicate: "duplicate key", Document: "document", Lost: "unquoted text", problem: "problem"} {
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
