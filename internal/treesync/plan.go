package treesync

import (
	"path"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/archive"
)

// plan is what a sync does in dest: compare makes it, commit carries it out.
type plan struct {
	root *dirPlan // of dest itself

	// How many names are created, changed, deleted and left alone, and how many
	// bytes of regular files are staged.
	created, changed, deleted, unchanged, bytes atomic.Int64
}

// dirPlan is what a sync does in one directory of dest. What stays as it is has
// no place in it.
type dirPlan struct {
	name, path string
	entry      *archive.Entry // nil if the directory stays only for protected names in it
	staging    *stagingDir    // of the mount that the directory is on
	stagedIn   string         // the subdirectory of staging that holds what is staged for this directory

	staged   []string // names to rename from stagedIn, which dest does not have
	swapped  []string // names to exchange with those of dest
	swaps    []string // those of swapped that the commit has exchanged
	repairs  []string // names that only need another mode, owner or time
	retimed  []string // those of repairs that rsync -v lists, since their time in seconds differs
	removals []string // names to remove, with all that is below them
	deleted  []string // the paths of all that removals and swapped delete
	subdirs  []*dirPlan

	mode    uint32     // of the directory as it was
	was     *attrsWere // nil if the directory stays only for protected names
	differs bool       // the directory's own mode, owner or time is to change

	differences map[string][]string // of names in swapped and repairs, for a preview
}

// attrsWere are what, beside its mode, the commit may change of a directory.
type attrsWere struct {
	uid, gid int
	mtime    unix.Timespec
}

func (p *dirPlan) empty() bool {
	return !p.differs && !p.changes() && len(p.repairs) == 0 && len(p.subdirs) == 0
}

// changes reports whether names are created, replaced or removed.
func (p *dirPlan) changes() bool {
	return len(p.staged) > 0 || len(p.swapped) > 0 || len(p.removals) > 0
}

// names returns how many names the commit handles in the directory and below it.
func (p *dirPlan) names() int64 {
	n := int64(len(p.staged) + len(p.swapped) + len(p.repairs) + len(p.removals))
	for _, sub := range p.subdirs {
		n += sub.names()
	}
	return n
}

// isTop reports whether the directory is the top one of its mount, which the
// staging directory is in.
func (p *dirPlan) isTop() bool { return p.staging != nil && p.staging.top == p }

// error adds to err the path of name, or of the directory itself if name is "".
// A nil error stays nil.
func (p *dirPlan) error(name string, err error) error {
	if err == nil {
		return nil
	}
	return pathError{path.Join(".", p.path, name), err}
}

// pathError is an error at a path below dest. The text of one for ".", dest itself,
// has no path: the caller adds that of dest.
type pathError struct {
	path string
	err  error
}

func (e pathError) Error() string {
	if e.path == "." {
		return e.err.Error()
	}
	return escape(e.path) + ": " + e.err.Error()
}

func (e pathError) Unwrap() error { return e.err }
