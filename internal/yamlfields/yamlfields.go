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
//	sort warnings and problems by line
//
// The work is linear in the size of the document, whatever its aliases are: the
// entries of a mapping are listed once for each field, a mapping that is merged
// several times is read once, and an alias in a list has to refer to a scalar.
package yamlfields

import (
	"encoding/base64"
	"fmt"
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
	//	func(Scalar) (warning string, err error)
	//	                    the same, with an error that is a warning only
	//
	// The error of the first function is a problem. It has to be one line that
	// continues a sentence which begins with the key, such as "is not a number". For
	// the second one, a warning other than "" becomes one of the kind Doubtful, and an
	// error one of the kind Invalid; both have to be a whole line.
	To any
	// Item is a noun for an item of a list, such as "command", that follows "a"
	// in errors.
	Item string
	// NotNull makes null, and no value at all, an error.
	NotNull bool
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
}

// Decode decodes the first document of data. Fields without a key in the document
// keep their values, so an empty document is valid.
//
// Unknown keys, all but the last of duplicate keys, and further documents are
// ignored with a warning. There is none for an unknown key of the outermost
// mapping that begins with "x-" or ".", or that has an anchor which is referenced.
//
// After a problem, some of the fields have been set.
//
// Neither problems nor warnings contain anything of data but keys that consist of at
// most 40 letters, digits, "_" and "-", and, where at least two keys are known, so
// that data is no arbitrary file, texts that stand where a list of them should be.
// What the functions of fields return is up to them.
func Decode(data []byte, fields []Field) *Result {
	d := &decoder{data: data, referenced: map[*yaml.Node]bool{}, places: map[string]*place{}}
	document := &place{line: 1}
	if root := d.parse(); root != nil {
		if root.Kind == yaml.MappingNode {
			document.line = root.Line
		}
		d.walk(root, map[*yaml.Node]bool{})
		if len(d.problems) == 0 {
			d.fields = fields
			d.quote = d.known(root, fields) >= 2
			d.mapping(root, "", fields)
		}
	}
	document.wrong = len(d.problems) > 0 && len(d.places) == 0
	d.places[""] = document
	return &Result{Warnings: d.warnings.sorted(), Problems: d.problems.sorted(), places: d.places}
}

type decoder struct {
	data               []byte
	lines              [][]rune            // of data, where they have been needed
	fields             []Field             // those of the document
	quote              bool                // whether values may be quoted
	referenced         map[*yaml.Node]bool // the nodes that aliases refer to
	warnings, problems report
	places             map[string]*place // of the keys that fields have
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
			case i >= 0:
				d.field(e, strings.TrimPrefix(path+"."+e.name, "."), fields[i])
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

// field decodes the value of e, whose key is path, into the variable of f.
func (d *decoder) field(e entry, path string, f Field) {
	n, value := e.value, target(e.value)
	at := &place{line: e.key.Line}
	if value.Kind == yaml.ScalarNode {
		at.line = n.Line // also if that is not the line of the key
	}
	d.places[path] = at
	before := len(d.problems)
	defer func() { at.wrong = len(d.problems) > before }()
	d.warnLost(n, path)
	if f.NotNull && isNull(value) {
		d.problems.add(problem, n.Line, "%s has no value", path)
		return
	}
	switch to := f.To.(type) {
	case *string:
		if s, ok := d.scalar(n); ok {
			*to = s.Text
		} else {
			d.problems.add(problem, n.Line, "%s is %s, expected a text", path, kind(value))
		}
	case func(Scalar) error:
		if s, ok := d.scalar(n); !ok {
			d.problems.add(problem, n.Line, "%s is %s, expected a text", path, kind(value))
		} else if !isNull(value) {
			if err := to(s); err != nil {
				d.problems.add(problem, n.Line, "%s %v", path, err)
			}
		}
	case func(Scalar) (warning string, err error):
		if s, ok := d.scalar(n); !ok {
			d.problems.add(problem, n.Line, "%s is %s, expected a text", path, kind(value))
		} else if !isNull(value) {
			warning, err := to(s)
			if warning != "" {
				d.warnings.add(Doubtful, n.Line, "%s", warning)
			}
			if err != nil {
				d.warnings.add(Invalid, n.Line, "%s", err)
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
				d.places[path+"."+e.name] = &place{line: e.key.Line}
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
			d.places[path].items = append(d.places[path].items, node.Line)
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
	n = target(n)
	switch {
	case n.Kind != yaml.ScalarNode:
		return Scalar{}, false
	case isNull(n):
		return Scalar{}, true
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
	return Scalar{n.Value, quoted}, true
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

// shown returns a key for an error or a warning. A key may be a secret, unless
// it looks like a name.
func shown(key string) string {
	const (
		letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_"
		most    = 40 // bytes
	)
	if key == "" || len(key) > most || strings.Trim(key[:1], letters) != "" || strings.Trim(key, letters+"0123456789-") != "" {
		return "(not a name)"
	}
	return key
}
