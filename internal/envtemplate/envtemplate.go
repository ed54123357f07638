// Package envtemplate replaces references to environment variables in a text:
//
//	{{ env "NAME" }}            the value of NAME, or nothing
//	{{ env "NAME" "default" }}  the value of NAME, or the default where NAME is
//	                            unset or empty
//	{{ must_env "NAME" }}       the value of NAME; an error where NAME is unset
//
// A name and a default are Go strings, in double quotes or backquotes. All other
// text stays as it is, in braces too: commands may contain templates of other
// programs. Values are not expanded again.
package envtemplate

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var (
	reference    = regexp.MustCompile(`\{\{\s*(env|must_env)((?:\s+(?:"(?:[^"\\\n]|\\.)*"|` + "`[^`\n]*`" + `)){1,2})\s*\}\}`)
	quotedString = regexp.MustCompile(`"(?:[^"\\\n]|\\.)*"|` + "`[^`\n]*`")
)

// Expand returns text with the references in it replaced. The error names all
// variables that must_env did not find.
func Expand(text []byte) ([]byte, error) {
	var missing []string
	text = reference.ReplaceAllFunc(text, func(ref []byte) []byte {
		parts := reference.FindSubmatch(ref)
		var args []string
		for _, quoted := range quotedString.FindAll(parts[2], -1) {
			arg, err := strconv.Unquote(string(quoted))
			if err != nil {
				return ref
			}
			args = append(args, arg)
		}
		if string(parts[1]) == "must_env" {
			if len(args) != 1 {
				return ref
			}
			value, ok := os.LookupEnv(args[0])
			if name := shown(args[0]); !ok && !slices.Contains(missing, name) {
				missing = append(missing, name)
			}
			return []byte(value)
		}
		if value := os.Getenv(args[0]); value != "" || len(args) == 1 {
			return []byte(value)
		}
		return []byte(args[1])
	})
	if len(missing) > 0 {
		return nil, fmt.Errorf("must_env: %s not set in the environment of the agent", strings.Join(missing, ", "))
	}
	return text, nil
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
