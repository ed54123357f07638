package yamlfields

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// itemHint says how to write an item that is a map because of a ": " in it, or a
// map or a list because it begins with { or [.
func (d *decoder) itemHint(n *yaml.Node, item string) string {
	if n.Style&yaml.FlowStyle != 0 {
		return fmt.Sprintf(": put a %s that begins with %s in quotes", item, map[yaml.Kind]string{yaml.MappingNode: "{", yaml.SequenceNode: "["}[n.Kind])
	}
	if n.Kind != yaml.MappingNode {
		return ""
	}
	text := "a: b"
	if d.quote && len(n.Content) == 2 && n.Content[0].Kind == yaml.ScalarNode && n.Content[1].Kind == yaml.ScalarNode {
		if written := strings.TrimSuffix(n.Content[0].Value+": "+n.Content[1].Value, " "); quotable(written) {
			text = written
		}
	}
	return fmt.Sprintf(": put a %s with \": \" in it in quotes, as - %s", item, inQuotes(text))
}

// listHint says how to write a list instead of n: it shows a text as an item.
func (d *decoder) listHint(n *yaml.Node, item string) string {
	switch {
	case n.Style == 0 && lacksBlank(n.Value):
		return "put a blank after each -"
	case !d.quote || n.Kind != yaml.ScalarNode || !quotable(n.Value):
		return `write it as "- ` + item + `" on a line of its own`
	case needsQuotes(n.Value):
		return "write - " + inQuotes(n.Value) + " on a line of its own"
	}
	return `write "- ` + n.Value + `" on a line of its own`
}

// inQuotes returns a text in single quotes of YAML.
func inQuotes(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// lacksBlank reports whether a text is meant to be an item of a list, but has no blank
// after its dash.
func lacksBlank(text string) bool {
	return len(text) > 1 && text[0] == '-' && text[1] != '-' && !isBlank(text[1])
}

func isBlank(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

// documentHint says what to do about a document that is not a mapping.
func (d *decoder) documentHint(n *yaml.Node) string {
	for _, f := range d.fields {
		if n.Kind == yaml.ScalarNode && n.Style == 0 && strings.HasPrefix(n.Value, f.Name+":") {
			return ": put a blank after each :"
		}
	}
	return " (is it a manifest at all?)"
}

// warnLost warns of a plain text whose beginning is not part of its value: that of
// "! grep x" is "grep x", and that of "&a x" is "x". subject is what the text is,
// for a sentence that continues with "begins with". The parser drops a tag of "!"
// alone, so look at the source.
func (d *decoder) warnLost(n *yaml.Node, subject string) {
	if n.Kind != yaml.ScalarNode || n.Style&quotedStyle != 0 || d.referenced[n] || n.Line < 1 || n.Line > len(d.source()) {
		return
	}
	line := d.source()[n.Line-1]
	source := string(line[min(max(n.Column, 1)-1, len(line)):min(n.Column+1, len(line))])
	switch {
	case source == "!!", source == "!<": // a tag that is meant
	case strings.HasPrefix(source, "!"):
		d.warnings.add(Lost, n.Line, "%s begins with !, which YAML takes for a tag: put it in quotes", subject)
	case strings.HasPrefix(source, "&"):
		d.warnings.add(Lost, n.Line, "%s begins with &, which YAML takes for an anchor: put it in quotes", subject)
	}
}

// needsQuotes reports whether a text, which is not empty, would be something else than
// a text as an item of a list.
func needsQuotes(text string) bool {
	return strings.IndexByte("-?:,[]{}#&*!|>'\"%@`", text[0]) >= 0 ||
		strings.Contains(text, ": ") || strings.Contains(text, " #") || strings.HasSuffix(text, ":")
}

// quotable reports whether a text can stand in an error: it is short, and has no
// characters that change the line or the terminal.
func quotable(s string) bool {
	return s != "" && len(s) <= 80 && !strings.ContainsFunc(s, func(r rune) bool {
		return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\ufffd' || r == '\u2028'
	})
}
