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
	"encoding/json"
	"fmt"
	"log"
	"os"
	"regexp"
	"strconv"
	"strings"
)

const (
	space  = `[ \t\r\n]`
	quoted = `(?:"(?:[^"\\\n]|\\.)*"|` + "`[^`\n]*`)"
)

var (
	quotedString = regexp.MustCompile(quoted)

	// reference has groups for the function, its arguments and json_escape.
	reference = regexp.MustCompile(`(?:` + space + `*\{\{-` + space + `+|\{\{` + space + `*)` +
		`(env|must_env)((?:` + space + `+` + quoted + `)+)(` + space + `*\|` + space + `*json_escape)?` +
		`(?:` + space + `*\}\}|` + space + `+-\}\}` + space + `*)`)

	// similar matches the beginning of a template in which one of the functions
	// stands, but neither in a string nor as a part of another name.
	similar = regexp.MustCompile(`\{\{(?:-?` + space + "*|(?:[^{}\"'`\n]|\"[^\"\n]*\"|'[^'\n]*'|`[^`\n]*`)*?[ \t(|])" +
		`(?:env|must_env|json_escape)` + "[ \t\r\n\"'`()|}]")
)

// Expand returns text with the references in it replaced. Where something looks like
// a reference and is not, it logs a warning with the line. The error names all
// variables that must_env did not find.
func Expand(text []byte) ([]byte, error) {
	var out []byte
	var missing []string
	var odd []string // numbers of lines
	done := 0        // bytes of text that out has
	line, counted := 1, 0
	copyTo := func(end int) {
		for _, at := range similar.FindAllIndex(text[done:end], -1) {
			line += bytes.Count(text[counted:done+at[0]], []byte("\n"))
			counted = done + at[0]
			odd = append(odd, strconv.Itoa(line))
		}
		out = append(out, text[done:end]...)
	}
	for _, at := range reference.FindAllSubmatchIndex(text, -1) {
		names, ok := unquote(text[at[4]:at[5]])
		must := string(text[at[2]:at[3]]) == "must_env"
		if !ok || must && len(names) > 1 {
			continue
		}
		value := env(names)
		if _, ok := os.LookupEnv(names[0]); must && !ok {
			missing = append(missing, shown(names[0]))
		}
		if at[6] >= 0 {
			value = jsonEscape(value)
		}
		copyTo(at[0])
		out = append(out, value...)
		done = at[1]
	}
	copyTo(len(text))
	if len(odd) > 0 {
		// Without a quotation: a default may be a secret, and the text any file of
		// the host.
		log.Printf(`[WARN] manifest: line %s: a template with env, must_env or json_escape stays as it is, because it is none of {{ env "NAME" "default" }}, {{ must_env "NAME" }} and {{ must_env "NAME" | json_escape }}`, list(odd))
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("must_env: %s not set in the environment of the agent", list(missing))
	}
	return out, nil
}

// unquote returns the arguments of a reference. It is false if one of them is not a
// string of Go.
func unquote(arguments []byte) (args []string, ok bool) {
	for _, quoted := range quotedString.FindAll(arguments, -1) {
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

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,39}$`)

// shown returns a name for an error. The text may be any file of the host, so what
// does not look like the name of a variable stays out of the log.
func shown(name string) string {
	if variableName.MatchString(name) {
		return name
	}
	return "(not a name)"
}
