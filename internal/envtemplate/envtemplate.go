// Package envtemplate replaces references to environment variables in a manifest:
//
//	{{ env "NAME" }}                    the value of NAME, or nothing
//	{{ env "NAME" "OTHER" "default" }}  the value of the first variable that is set
//	                                    and not empty, or else the last argument
//	{{ must_env "NAME" }}               the value of NAME; an error where NAME is unset
//	{{ env "NAME" | json_escape }}      the value as it stands in a JSON string
//	{{- env "NAME" -}}                  the white space on that side is removed
//
// This is a part of the templates of the original agent, those of
// github.com/kayac/go-config. As there, the last argument may be the name of a
// variable, too. A name and a default are Go strings, in double quotes or
// backquotes.
//
// All other text stays as it is, in braces too: commands may contain templates of
// other programs. Values are not expanded again.
package envtemplate

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

const (
	space  = `[ \t\r\n]`
	quoted = `(?:"(?:[^"\\\n]|\\.)*"|` + "`[^`\n]*`)"
)

// The patterns are compiled only for a manifest that has a template.
var (
	quotedString = pattern(quoted)

	// reference has groups for the function, its arguments and json_escape.
	reference = pattern(`(?:` + space + `*\{\{-` + space + `+|\{\{` + space + `*)` +
		`(env|must_env)((?:` + space + `+` + quoted + `)+)(` + space + `*\|` + space + `*json_escape)?` +
		`(?:` + space + `*\}\}|` + space + `+-\}\}` + space + `*)`)

	// similar matches the beginning of a template in which one of the functions
	// stands, but neither in a string nor as a part of another name.
	similar = pattern(`\{\{(?:-?` + space + "*|(?:[^{}\"'`\n]|\"[^\"\n]*\"|'[^'\n]*'|`[^`\n]*`)*?[ \t(|])" +
		`(?:env|must_env|json_escape)` + "[ \t\r\n\"'`()|}]")
)

func pattern(text string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}

// Result is a text with its references replaced.
type Result struct {
	// Text is the new text. For a variable of must_env that is not set it has
	// "unset".
	Text []byte
	// Missing are the references of must_env to variables that are not set, in the
	// order of the text.
	Missing []Reference
	// Odd are the lines of what looks like a reference and is not, in their order.
	Odd []int

	moved []moved
}

// Reference is one reference in the text.
type Reference struct {
	// Line is the line in the original text, counted from 1.
	Line int
	// Name is the variable, if it looks like the name of one.
	Name string
}

// moved is a place in both texts, at which the distance of the lines changes.
type moved struct{ from, to int }

// Expand returns text with the references in it replaced.
func Expand(text []byte) *Result {
	if !bytes.Contains(text, []byte("{{")) {
		return &Result{Text: text}
	}
	r := &Result{}
	done := 0        // bytes of text that are in r.Text
	from, to := 1, 1 // the lines at counted, and at the end of r.Text
	counted := 0     // bytes of text up to which lines have been counted
	lineAt := func(end int) int {
		from += bytes.Count(text[counted:end], newline)
		counted = end
		return from
	}
	copyTo := func(end int) {
		for _, at := range similar().FindAllIndex(text[done:end], -1) {
			r.Odd = append(r.Odd, lineAt(done+at[0]))
		}
		to += bytes.Count(text[done:end], newline)
		r.Text = append(r.Text, text[done:end]...)
	}
	for _, at := range reference().FindAllSubmatchIndex(text, -1) {
		names, ok := unquote(text[at[4]:at[5]])
		must := string(text[at[2]:at[3]]) == "must_env"
		if !ok || must && len(names) > 1 {
			continue
		}
		value := env(names)
		copyTo(at[0])
		start := moved{lineAt(at[0]), to}
		if _, ok := os.LookupEnv(names[0]); must && !ok {
			r.Missing = append(r.Missing, Reference{lineAt(at[2]), shown(names[0])})
			value = "unset"
		}
		if at[6] >= 0 {
			value = jsonEscape(value)
		}
		r.Text = append(r.Text, value...)
		to += strings.Count(value, "\n")
		done = at[1]
		if end := (moved{lineAt(done), to}); end.from-start.from != end.to-start.to {
			r.moved = append(r.moved, start, end)
		}
	}
	copyTo(len(text))
	return r
}

var newline = []byte("\n")

// Line returns the line of the original text that a line of Text comes from. For a
// value of several lines, that is the line of its reference.
func (r *Result) Line(line int) int {
	i, found := slices.BinarySearchFunc(r.moved, line, func(m moved, line int) int { return cmp.Compare(m.to, line) })
	if found {
		return r.moved[i].from
	}
	from := line
	if i > 0 {
		from = r.moved[i-1].from + line - r.moved[i-1].to
	}
	if i < len(r.moved) {
		from = min(from, r.moved[i].from)
	}
	return from
}

// Err returns an error of one line that names all Missing, nil if there are none.
func (r *Result) Err() error {
	if len(r.Missing) == 0 {
		return nil
	}
	var names []string
	for _, m := range r.Missing {
		names = append(names, m.Name)
	}
	return fmt.Errorf("must_env: %s not set in the environment of the agent", list(names))
}

// OddText is what is to be said about a line of Odd. It has no quotation: a default
// may be a secret, and the text any file of the host.
const OddText = `a template with env, must_env or json_escape stays as it is, because it is none of {{ env "NAME" "default" }}, {{ must_env "NAME" }} and {{ must_env "NAME" | json_escape }}`

// Warning returns one line about all of Odd, "" if there are none.
func (r *Result) Warning() string {
	if len(r.Odd) == 0 {
		return ""
	}
	var lines []string
	for _, line := range r.Odd {
		lines = append(lines, strconv.Itoa(line))
	}
	return "line " + list(lines) + ": " + OddText
}

// unquote returns the arguments of a reference. It is false if one of them is not a
// string of Go.
func unquote(arguments []byte) (args []string, ok bool) {
	for _, quoted := range quotedString().FindAll(arguments, -1) {
		arg, err := strconv.Unquote(string(quoted))
		if err != nil {
			return nil, false
		}
		args = append(args, arg)
	}
	return args, true
}

// env returns the value of the first variable that has one. Where there is none, it
// is the last of several names.
func env(names []string) string {
	for _, name := range names {
		if value := os.Getenv(name); value != "" {
			return value
		}
	}
	if len(names) == 1 {
		return ""
	}
	return names[len(names)-1]
}

// jsonEscape returns s as the inside of a JSON string.
func jsonEscape(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // encoding/json can encode all strings
	}
	return string(b[1 : len(b)-1])
}

// list returns the first ten of items without repetitions, and how many more there
// are.
func list(items []string) string {
	const most = 10
	seen := make(map[string]bool)
	var first []string
	for _, item := range items {
		if !seen[item] && len(first) < most {
			first = append(first, item)
		}
		seen[item] = true
	}
	text := strings.Join(first, ", ")
	if more := len(seen) - len(first); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// shown returns a name for an error. The text may be any file of the host, so what
// does not look like the name of a variable stays out of the log.
func shown(name string) string {
	const (
		letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_"
		most    = 40 // bytes
	)
	if name == "" || len(name) > most || strings.Trim(name[:1], letters) != "" || strings.Trim(name, letters+"0123456789") != "" {
		return "(not a name)"
	}
	return name
}
