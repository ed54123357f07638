package state

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/unixfs"
)

const (
	// version is that of the format of state.json.
	version = 1
	// maxState is more than state.json can have, in bytes, and as much as is read of it.
	maxState = 16 << 20
	// maxDests is how many dests have totals. The one that was deployed to least
	// recently is dropped first.
	maxDests = 1000
)

// Dir is a state directory. Several processes may use one at a time.
type Dir struct{ path string }

// Totals are the sums of all deployments to one dest.
type Totals struct {
	Successes uint64    `json:"successes"`
	Failures  uint64    `json:"failures"`
	Bytes     uint64    `json:"bytes"` // downloaded
	Last      time.Time `json:"last"`  // the end of the last one
}

// contents is state.json.
type contents struct {
	Version int               `json:"version"`
	Events  []Handled         `json:"events"` // the newest last
	Totals  map[string]Totals `json:"totals"` // by Deployment.Label
}

// Open opens the state directory at path. It makes the directory with mode 0700 if it
// is missing, but not its parents. It fails if a success could not be recorded there:
// the directory cannot be made or written to, or its disk is full; and also if
// everybody may write to it, or a user other than root and the one of this process owns
// it, since these could mark events as handled.
func Open(path string) (*Dir, error) {
	d := &Dir{path}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: make its parent directory first", err)
		}
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", path)
	}
	if info.Mode().Perm()&unix.S_IWOTH != 0 {
		return nil, fmt.Errorf("%s may be written to by everybody, who could mark events as handled: chmod o-w it, or name another directory", path)
	}
	if owner := unixfs.OwnerOf(info); owner != 0 && owner != os.Geteuid() {
		return nil, fmt.Errorf("%s belongs to the user with ID %d, who could mark events as handled: chown it, or name another directory", path, owner)
	}
	if err := d.update(func(*contents) {}); err != nil {
		return nil, err
	}
	f, err := d.openHistory()
	if err != nil {
		return nil, err
	}
	return d, f.Close()
}

// CheckOutside fails if the state directory is in dest, or is dest: a deployment deletes
// or moves away what its archive lacks. On a nil Dir it does nothing.
func (d *Dir) CheckOutside(dest string) error {
	if d == nil {
		return nil
	}
	realDest, err := unixfs.RealPath(dest)
	if err != nil {
		return err
	}
	own, err := unixfs.RealPath(d.path)
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	if below, err := filepath.Rel(realDest, own); err == nil && filepath.IsLocal(below) {
		return fmt.Errorf("the state directory %s is in dest %s, whose other files a deployment deletes: name a directory outside of it", d.path, dest)
	}
	return nil
}

// Handled returns what says that e has been handled with success, or nil.
func (d *Dir) Handled(e Event) (*Handled, error) {
	unlock, err := d.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	c, err := d.read()
	if err != nil {
		return nil, err
	}
	return find(c.Events, e), nil
}

// LockName returns an absolute path that stands for e, or for all events of Serf of
// its name. Nothing is made there.
func (d *Dir) LockName(e Event) string {
	name := e.Kind + " " + e.Name
	if e.Kind == Consul {
		name = e.Kind + " " + e.ID
	}
	path := d.file(strings.ReplaceAll(key(name), "/", "_"))
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// Record adds a deployment to the totals and to the history; after a success, its
// event is handled. It returns the totals of all dests. What is recorded survives a
// power cut.
//
// After an error, the event is not handled, nothing is added to the totals, and none
// are returned. If there is an event that should be handled now, nothing is added to
// the history either. If only the history cannot be written, that is logged, and is
// not an error.
func (d *Dir) Record(deployment Deployment) (totals map[string]Totals, err error) {
	now := time.Now().UTC().Truncate(time.Second)
	unlock, err := d.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	err = d.updateLocked(func(c *contents) {
		if deployment.Result == Success && deployment.Event != nil {
			c.Events = remember(c.Events, *deployment.Event, now)
		}
		c.count(deployment, now)
		totals = c.Totals
	})
	if err != nil && deployment.Result == Success && deployment.Event != nil {
		return nil, err
	}
	unixfs.Warn("add to the history", d.appendHistory(deployment))
	if err != nil {
		return nil, err // counters must not show what the next deployment will not count
	}
	return totals, nil
}

// count adds a deployment that ended now to the totals.
func (c *contents) count(deployment Deployment, now time.Time) {
	if c.Totals == nil {
		c.Totals = map[string]Totals{}
	}
	dest := deployment.Label()
	t := c.Totals[dest]
	t.Last = now
	t.Bytes += uint64(deployment.Bytes)
	if deployment.Result == Success {
		t.Successes++
	} else {
		t.Failures++
	}
	c.Totals[dest] = t
	for len(c.Totals) > maxDests {
		oldest := ""
		for dest, t := range c.Totals {
			if oldest == "" || cmp.Or(t.Last.Compare(c.Totals[oldest].Last), cmp.Compare(dest, oldest)) < 0 {
				oldest = dest
			}
		}
		log.Printf("[WARN] state directory: more than %d dests: dropped the totals of %q", maxDests, oldest)
		delete(c.Totals, oldest)
	}
}

func (d *Dir) file(name string) string { return filepath.Join(d.path, name) }

func (d *Dir) lock() (unlock func(), err error) { return unixfs.LockFile(d.file("lock")) }

func (d *Dir) update(change func(*contents)) error {
	unlock, err := d.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return d.updateLocked(change)
}

// updateLocked reads state.json, changes it, and replaces it.
func (d *Dir) updateLocked(change func(*contents)) error {
	c, err := d.read()
	if err != nil {
		return err
	}
	change(c)
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return unixfs.ReplaceFile(d.file("state.json"), append(data, '\n'), 0o600)
}

// read reads state.json. One that is damaged is moved aside: to refuse every
// deployment until somebody looks is worse than to deploy one event once more, which
// is what happens without a state directory.
func (d *Dir) read() (*contents, error) {
	path := d.file("state.json")
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &contents{Version: version}, nil
	}
	if err != nil {
		return nil, err
	}
	c, err := parse(data)
	if err == nil {
		return c, nil
	}
	aside := path + ".corrupt"
	if err := os.Rename(path, aside); err != nil {
		return nil, err
	}
	log.Printf("[WARN] %s %v: it is now %s, and all events count as not handled", path, err, filepath.Base(aside))
	return &contents{Version: version}, nil
}

// parse parses state.json. Its errors do not quote data, which may be another file's.
func parse(data []byte) (*contents, error) {
	var format struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &format); err != nil || format.Version < 1 {
		return nil, errors.New("is damaged, or not a state file")
	}
	if format.Version > version {
		return nil, fmt.Errorf("has the format %d of a newer version of stretcher", format.Version)
	}
	c := &contents{}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, errors.New("is damaged, or not a state file")
	}
	return c, nil
}

// readFile reads a regular file of the directory. One that is too long is cut, and is
// then not valid JSON.
func readFile(path string) ([]byte, error) {
	f, err := openFile(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxState))
}

// openFile opens a regular file of the directory. A symbolic link, or a pipe, would
// lead somewhere else.
func openFile(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file: remove it", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
