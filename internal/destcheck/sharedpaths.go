package destcheck

import (
	"cmp"
	"fmt"
	"path"
	"strings"
)

// CheckSharedPaths returns what is wrong with each of the shared paths, nil for one
// that is fine: they have to be relative paths inside of a release, and none of them
// may be inside of another.
func CheckSharedPaths(paths []string) []error {
	problems := make([]error, len(paths))
	var checked []string
	for i, p := range paths {
		clean := path.Clean(p)
		switch {
		case clean == ".":
			problems[i] = fmt.Errorf("%q is the release itself: name a path inside of it", p)
		case strings.HasPrefix(p, "/"):
			problems[i] = fmt.Errorf("%q is absolute: name a path inside of the release, relative to it", p)
		case strings.ContainsRune(p, 0):
			problems[i] = fmt.Errorf("%q has a NUL byte", p)
		case strings.Contains("/"+p+"/", "/../"):
			problems[i] = fmt.Errorf(`%q has ".." in it: name a path inside of the release`, p)
		}
		for j, other := range checked {
			if clean == other || strings.HasPrefix(clean, other+"/") || strings.HasPrefix(other, clean+"/") {
				problems[i] = cmp.Or(problems[i], fmt.Errorf("%q and %q are the same, or one is inside of the other: name each path once", paths[j], p))
				break
			}
		}
		checked = append(checked, clean)
	}
	return problems
}
