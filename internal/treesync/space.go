package treesync

import (
	"errors"
	"fmt"

	"github.com/dustin/go-humanize"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

// explainSpace adds to an error of a full disk or quota how many bytes the files that
// were to be written have, how many were free for them, and an outcome. Where they
// would have fitted, something else is used up. If free is negative, it is unknown.
func explainSpace(err error, bytes, files, free int64, outcome string) error {
	if free < 0 {
		return err
	}
	const block = 4096 // of which a file may fill the last one only in part
	where, hint := "", ""
	if at := (pathError{}); errors.As(err, &at) {
		err = at.err
		if at.path != "." {
			where = " while writing " + escape(at.path)
		}
	}
	if free >= bytes+block*(files+1) {
		hint = "; inodes or a quota may be used up"
	}
	return fmt.Errorf("no space left (needs %s more, %s free%s)%s%s: %w",
		humanize.IBytes(uint64(bytes)), humanize.IBytes(uint64(free)), hint, where, outcome, err)
}

// freeAt returns how many bytes are free on the file system of an open directory, -1
// if that is unknown.
func freeAt(dir int) int64 {
	free, err := unixfs.FreeSpace(unixfs.DescriptorPath(dir))
	if err != nil {
		return -1
	}
	return free
}
