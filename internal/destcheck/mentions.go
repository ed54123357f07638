package destcheck

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Mentions reports whether a shell command has the path dest in it, or its
// directory and its name, as in "cd /srv && mv app old". Variables stand for their
// values in env, where the last one of a name counts. What a script does that the
// command runs is not looked into.
func Mentions(command string, env []string, dest string) bool {
	// As it stands, too: single quotes keep the shell from replacing variables.
	text := command + "\n" + os.Expand(command, func(name string) string {
		for _, variable := range slices.Backward(env) {
			if value, ok := strings.CutPrefix(variable, name+"="); ok {
				return value
			}
		}
		return ""
	})
	const other = `[^\pL\pN_.-]` // what is not part of a name
	name, err := regexp.Compile(`(^|` + other + `)` + regexp.QuoteMeta(filepath.Base(dest)) + `($|` + other + `)`)
	if err != nil { // the name is not UTF-8
		return strings.Contains(text, dest)
	}
	return strings.Contains(text, filepath.Dir(dest)) && name.MatchString(text)
}
