package destcheck

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// script matches a shell command that runs a script, which may do anything: by its
// path, where that is not a program of the system or of init(8), or by an
// interpreter.
var script = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?:^|[;&|(\n])\s*(?:(?:sudo|exec|env|nohup)\s+)*(?:(?:\S*/)?(?:(?:ba|da|z|k)?sh|python[\d.]*|perl|ruby|make|\.|source)\s|(\S*/\S*))`)
})

// isSystemProgram reports whether a path is that of a program of the system or of
// init(8). These do not move a dest that is not among their arguments.
func isSystemProgram(path string) bool {
	for _, dir := range []string{"/bin/", "/sbin/", "/usr/bin/", "/usr/sbin/", "/etc/init.d/"} {
		if strings.HasPrefix(path, dir) {
			return true
		}
	}
	return false
}

// MayMove reports whether a shell command may move the directory dest away: it has
// that path in it, or its directory and its name, as in "cd /srv && mv app old",
// or it runs a script. Variables stand for their values in env, where the last one
// of a name counts.
func MayMove(command string, env []string, dest string) bool {
	for _, match := range script().FindAllStringSubmatch(command, -1) {
		if !isSystemProgram(match[1]) {
			return true
		}
	}
	return mentions(command, env, dest)
}

// mentions reports whether a command has the path of dest in it, or the path of its
// directory and its name.
func mentions(command string, env []string, dest string) bool {
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
