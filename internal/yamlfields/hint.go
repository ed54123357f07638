package yamlfields

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// itemHint says how to write an item that is a mapping because of a ": " in it.
func (d *decoder) itemHint(n *yaml.Node, item string) string {
	if n.Kind != yaml.MappingNode {
		return ""
	}
	text := "a: b"
	if d.quote && len(n.Content) == 2 && n.Content[0].Kind == yaml.ScalarNode && n.Content[1].Kind == yaml.ScalarNode {
		if written := n.Content[0].Value + ": " + n.Content[1].Value; quotable(written) {
			text = written
		}
	}
	return fmt.Sprintf(": put a %s with \": \" in it in quotes, as - '%s'", item, strings.ReplaceAll(text, "'", "''"))
}

// listHint shows a text as an item of the list that it should have been.
func (d *decoder) listHint(n *yaml.Node, item string) string {
	if d.quote && n.Kind == yaml.ScalarNode && quotable(n.Value) {
		if indicator.MatchString(n.Value) {
			return "- '" + strings.ReplaceAll(n.Value, "'", "''") + "'"
		}
		return `"- ` + n.Value + `"`
	}
	return `it as "- ` + item + `"`
}

// lost returns the first character of a plain text that is not part of its value,
// and what YAML takes it for, or "". The value of "! grep x" is "grep x", and
// that of "&a x" is "x". The parser drops a tag of "!" alone, so look at the source.
func (d *decoder) lost(n *yaml.Node) string {
	const quoted = yaml.DoubleQuotedStyle | yaml.SingleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle
	if n.Kind != yaml.ScalarNode || n.Style&quoted != 0 || n.Value == "" || d.referenced[n] {
		return ""
	}
	if d.lines == nil {
		d.lines = bytes.Split(d.data, []byte("\n"))
	}
	if n.Line < 1 || n.Line > len(d.lines) || n.Column < 1 || n.Column > len(d.lines[n.Line-1]) {
		return ""
	}
	switch source := d.lines[n.Line-1][n.Column-1:]; {
	case bytes.HasPrefix(source, []byte("!!")), bytes.HasPrefix(source, []byte("!<")):
		return "" // a tag that is meant
	case source[0] == '!':
		return "! a tag"
	case source[0] == '&':
		return "& an anchor"
	}
	return ""
}

// indicator matches texts that need quotes in a list.
var indicator = regexp.MustCompile("^[-?:,\\[\\]{}#&*!|>'\"%@`]|: | #|:$")

// quotable reports whether a text can stand in an error: it is short, and has no
// characters that change the line or the terminal.
func quotable(s string) bool {
	return s != "" && len(s) <= 80 && !strings.ContainsFunc(s, func(r rune) bool {
		return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\ufffd' || r == '\u2028'
	})
}
