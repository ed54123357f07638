// Package unixfs holds the file system calls that the standard library lacks
// or wraps in a way that a deployment, which runs as root on directories that
// others may write to, cannot use.
//
// Names are looked up in open directories, one component at a time and never
// through a symbolic link, so that whoever swaps a directory for a link in the
// meantime redirects nothing (openat(2), "Rationale for openat() and other
// directory file descriptor APIs"). Functions that take a directory as an int
// take such a descriptor.
//
// The package imports none of the others of this module.
package unixfs

import "log"

// Warn logs the error of a step that must be seen but changes nothing, such as
// cleaning up: "[WARN] doing: err". A nil error is ignored.
func Warn(doing string, err error) {
	if err != nil {
		log.Printf("[WARN] %s: %v", doing, err)
	}
}
