package proc

import (
	"fmt"
	"math"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// CheckSize reports arguments and an environment with which no program can be
// started, since Linux would answer E2BIG (execve(2), "Limits on size of arguments
// and environment"): a single string has a limit, and so have all of them
// together. args begins with the name of the program. The error ends with advice,
// which says what to do about the arguments.
func CheckSize(args, env []string, advice string) error {
	// The kernel counts the NUL byte at the end of each string too.
	longest := 32*os.Getpagesize() - 1
	for _, variable := range env {
		if len(variable) > longest {
			name, _, _ := strings.Cut(variable, "=")
			return fmt.Errorf("the variable %s has %d bytes, more than the %d that Linux allows in one: put its value in a file", Shorten(name, 60), len(variable), longest)
		}
	}
	for _, arg := range args {
		if len(arg) > longest {
			return fmt.Errorf("%d bytes, more than the %d that Linux allows in one argument: %s", len(arg), longest, advice)
		}
	}
	ofArgs, ofEnv, limit := stringsSize(args), stringsSize(env), sizeLimit()
	if ofArgs+ofEnv > limit {
		return fmt.Errorf("%d bytes of arguments and %d of environment, together more than the %d that Linux allows (a quarter of ulimit -s, at most 6 MiB): %s", ofArgs, ofEnv, limit, advice)
	}
	return nil
}

// CheckVariable reports what the system would not take as a variable of the
// environment. With a variable that is too long, no program can be started.
func CheckVariable(name, value string) error {
	if name == "" || strings.ContainsAny(name, "=\x00") {
		return fmt.Errorf("invalid variable name %q", Shorten(name, 60))
	}
	if strings.ContainsRune(value, 0) {
		return fmt.Errorf("%q has a NUL byte", name)
	}
	return CheckSize(nil, []string{name + "=" + value}, "")
}

// stringsSize returns what strings take up on the stack of a program: their bytes,
// a NUL byte and a pointer each.
func stringsSize(list []string) int {
	const pointer = 8
	size := 0
	for _, s := range list {
		size += len(s) + 1 + pointer
	}
	return size
}

// sizeLimit returns how many bytes the strings of a program may have: a quarter of
// the limit for the stack, but at least 128 KiB and at most 6 MiB, without what is
// set aside here for the path of the program, and of an interpreter if it is a
// script.
func sizeLimit() int {
	const least, most, aside = 128 << 10, 6 << 20, 4 << 10
	var stack unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_STACK, &stack) != nil { // it cannot fail
		stack.Cur = math.MaxUint64
	}
	return int(min(max(stack.Cur/4, least), most)) - aside
}
