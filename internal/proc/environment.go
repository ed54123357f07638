package proc

import (
	"os"
	"slices"
	"strings"
)

// Environment returns the environment of this process without the variables that are
// named, and with those of add that the system takes. The others are no error, because
// the failure commands of a wrong manifest are run, too.
func Environment(add map[string]string, without ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains(without, name)
	})
	for name, value := range add {
		if CheckVariable(name, value) == nil {
			env = append(env, name+"="+value)
		}
	}
	return env
}
