// Package metrics keeps a file with metrics of the last deployment to each dest, in
// the text format of Prometheus, for the textfile collector of node_exporter
// (https://github.com/prometheus/node_exporter#textfile-collector).
//
// The file itself is what is known of the dests that were deployed to before: Update
// reads it, changes the series of one dest, and replaces it, all under a lock beside
// it. The counters come from the state directory; without one there are none, because
// they would start over whenever the file is removed.
//
// The package writes and reads the format itself. The library of Prometheus would add
// package protobuf to the program, which costs space and time at each start.
package metrics

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/state"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

const (
	// maxFile is more than a file of maxDests dests has, in bytes.
	maxFile = 32 << 20
	// maxDests is how many dests have series. The one that was deployed to least
	// recently is dropped first.
	maxDests = 1000
)

// The names of the metrics. Those that begin with last are of the last deployment to
// each dest.
const (
	prefix    = "stretcher_"
	last      = prefix + "last_deploy_"
	success   = last + "success"
	timestamp = last + "timestamp_seconds"
	duration  = last + "duration_seconds"
	bytesLast = last + "downloaded_bytes"
	info      = last + "info"
	deploys   = prefix + "deploys_total"
	bytesAll  = prefix + "downloaded_bytes_total"
)

// help returns the help text of a metric.
func help(name string) string {
	switch name {
	case success:
		return "Whether the last deployment to dest succeeded (1) or failed (0)."
	case timestamp:
		return "Unix time of the end of the last deployment to dest."
	case duration:
		return "Duration of the last deployment to dest, without its success and failure commands."
	case bytesLast:
		return "Bytes of the archive that the last deployment to dest downloaded, retries included."
	case info:
		return "The checksum and the manifest of the last deployment to dest."
	case deploys:
		return "Number of deployments to dest, by their result."
	default:
		return "Bytes of archives that deployments to dest downloaded, retries included."
	}
}

// Check reports what would keep Update from writing the file at path.
func Check(path string) error {
	dir := filepath.Dir(path)
	if info, err := os.Stat(dir); err != nil {
		return err
	} else if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return &fs.PathError{Op: "write to", Path: dir, Err: err}
	}
	_, err := read(path)
	return err
}

// Update puts a deployment that ended just now into the file at path, which it makes
// with mode 0644 if it is missing. It also sets the counters of all dests in totals.
// The series of other dests stay, apart from those of a dest that was unknown: a
// success removes them, so that an alert does not outlive what it is about. A file
// that has anything else in it than these metrics is an error, and stays.
func Update(path string, d state.Deployment, totals map[string]state.Totals, now time.Time) error {
	unlock, err := unixfs.LockFile(path + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	f, err := read(path)
	if err != nil {
		return err
	}
	f.update(d, totals, now)
	return unixfs.ReplaceFile(path, f.text(), 0o644) // the collector is another user
}

// read reads the file at path. One that is missing is empty.
func read(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return file{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, cmp.Or(err, fmt.Errorf("%s is not a regular file", path))
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	// The path may have been mistyped, so a file with other contents is not replaced,
	// and the error does not quote it.
	metrics, ok := parse(data)
	if !ok {
		return nil, fmt.Errorf("%s is there already, and has something else in it than metrics of stretcher: name another file, or remove it", path)
	}
	return metrics, nil
}

// update sets the series of a deployment that ended now, and the counters.
func (f file) update(d state.Deployment, totals map[string]state.Totals, now time.Time) {
	dest := d.Label()
	f.drop(last, labels("dest", dest))
	result := 0.0
	if d.Result == state.Success {
		result = 1
		f.drop(last, labels("dest", state.UnknownDest))
	}
	f.set(success, gauge, result, "dest", dest)
	f.set(timestamp, gauge, float64(now.UnixMilli())/1000, "dest", dest)
	f.set(duration, gauge, d.Duration, "dest", dest)
	f.set(bytesLast, gauge, float64(d.Bytes), "dest", dest)
	f.set(info, gauge, 1, "dest", dest, "checksum", d.Checksum, "manifest", d.Manifest)
	for dest, t := range totals {
		f.set(deploys, counter, float64(t.Successes), "dest", dest, "result", state.Success)
		f.set(deploys, counter, float64(t.Failures), "dest", dest, "result", state.Failure)
		f.set(bytesAll, counter, float64(t.Bytes), "dest", dest)
	}
	f.bound()
}

// set sets the value of the series with these labels, which are names and values.
func (f file) set(name, kind string, value float64, namesAndValues ...string) {
	m := f.metric(name)
	m.head = fmt.Sprintf("# HELP %s %s\n# TYPE %[1]s %[3]s\n", name, help(name), kind)
	m.series[labels(namesAndValues...)] = strconv.FormatFloat(value, 'g', -1, 64)
}

// drop removes the series whose first label is the given one from the metrics whose
// names begin with prefix.
func (f file) drop(prefix, label string) {
	for name, m := range f {
		if strings.HasPrefix(name, prefix) {
			maps.DeleteFunc(m.series, func(labels, _ string) bool { return strings.HasPrefix(labels, label) })
		}
	}
}

// bound drops dests, the oldest first, until there are no more than maxDests.
func (f file) bound() {
	times := f.metric(timestamp).series
	for len(times) > maxDests {
		oldest, first := "", 0.0
		for labels, value := range times {
			at, err := strconv.ParseFloat(value, 64)
			if oldest == "" || err != nil || at < first {
				oldest, first = labels, at
			}
		}
		label, _, _ := cutLabel(oldest)
		log.Printf("[WARN] metrics: more than %d dests: dropped the series of %s", maxDests, strings.TrimPrefix(label, "dest="))
		f.drop(prefix, label)
	}
}
