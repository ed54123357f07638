package unixfs

import (
	"bytes"
	"fmt"
	"os"
)

// ProcessStat is what the file stat of a process in /proc tells (proc(5),
// "/proc/pid/stat").
type ProcessStat struct {
	State         string // Z is a zombie, X is dead
	Parent, Group int    // process and process group IDs
}

// ReadProcessStat reads a file /proc/PID/stat.
func ReadProcessStat(path string) (p ProcessStat, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return p, err
	}
	// The line is "pid (name) state parent group ...". The name may contain
	// spaces and parentheses.
	_, err = fmt.Sscan(string(data[bytes.LastIndexByte(data, ')')+1:]), &p.State, &p.Parent, &p.Group)
	return p, err
}
