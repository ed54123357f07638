// Package metrics keeps a file with metrics of the last deployment to each dest, in
// the text format of Prometheus, for the textfile collector of node_exporter
// (https://github.com/prometheus/node_exporter#textfile-collector).
//
// The file itself is what is known of the dests that were deployed to before: Update
// reads it, changes the series of one dest, and replaces it, all under a lock beside
// it. The counters come from the state directory; without one there are none, because
// they would start over whenever the file is removed.
package metrics

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
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
	text, err := f.text()
	if err != nil {
		return notOurs(path)
	}
	return unixfs.ReplaceFile(path, text, 0o644) // the collector is another user
}

// file is the metrics by their names.
type file map[string]*dto.MetricFamily

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
	metrics, err := parse(data)
	if err != nil {
		return nil, notOurs(path)
	}
	return metrics, nil
}

// notOurs is the error for a file with other contents, which it does not quote. The
// path may have been mistyped, so the file is not replaced.
func notOurs(path string) error {
	return fmt.Errorf("%s is there already, and has something else in it than metrics of stretcher: name another file, or remove it", path)
}

// parse parses the text of a file.
func parse(data []byte) (file, error) {
	if len(data) > maxFile {
		return nil, errors.New("too large")
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	for name := range families {
		if !strings.HasPrefix(name, prefix) {
			return nil, errors.New("a foreign metric")
		}
	}
	return families, nil
}

func (f file) update(d state.Deployment, totals map[string]state.Totals, now time.Time) {
	dest := d.Label()
	f.drop(last, dest)
	result := 0.0
	if d.Result == state.Success {
		result = 1
		f.drop(last, state.UnknownDest)
	}
	f.set(success, dto.MetricType_GAUGE, result, "dest", dest)
	f.set(timestamp, dto.MetricType_GAUGE, float64(now.UnixMilli())/1000, "dest", dest)
	f.set(duration, dto.MetricType_GAUGE, d.Duration, "dest", dest)
	f.set(bytesLast, dto.MetricType_GAUGE, float64(d.Bytes), "dest", dest)
	f.set(info, dto.MetricType_GAUGE, 1, "dest", dest, "checksum", d.Checksum, "manifest", d.Manifest)
	for dest, t := range totals {
		f.set(deploys, dto.MetricType_COUNTER, float64(t.Successes), "dest", dest, "result", state.Success)
		f.set(deploys, dto.MetricType_COUNTER, float64(t.Failures), "dest", dest, "result", state.Failure)
		f.set(bytesAll, dto.MetricType_COUNTER, float64(t.Bytes), "dest", dest)
	}
	f.bound()
}

// set sets the value of the series with these labels, which are names and values.
func (f file) set(name string, kind dto.MetricType, value float64, labels ...string) {
	family := f[name]
	if family == nil {
		family = &dto.MetricFamily{Name: &name}
		f[name] = family
	}
	text := help(name)
	family.Help, family.Type = &text, &kind
	m := &dto.Metric{}
	for i := 0; i < len(labels); i += 2 {
		value := strings.ToValidUTF8(labels[i+1], "\ufffd")
		m.Label = append(m.Label, &dto.LabelPair{Name: &labels[i], Value: &value})
	}
	if kind == dto.MetricType_COUNTER {
		m.Counter = &dto.Counter{Value: &value}
	} else {
		m.Gauge = &dto.Gauge{Value: &value}
	}
	family.Metric = slices.DeleteFunc(family.Metric, func(old *dto.Metric) bool { return compareLabels(old, m) == 0 })
	family.Metric = append(family.Metric, m)
}

// drop removes the series of dest from the metrics whose names begin with prefix.
func (f file) drop(prefix, dest string) {
	for name, family := range f {
		if strings.HasPrefix(name, prefix) {
			family.Metric = slices.DeleteFunc(family.Metric, func(m *dto.Metric) bool { return destOf(m) == dest })
		}
	}
}

// bound drops dests, the oldest first, until there are no more than maxDests.
func (f file) bound() {
	times := f[timestamp].Metric
	for ; len(times) > maxDests; times = f[timestamp].Metric {
		oldest := destOf(slices.MinFunc(times, func(a, b *dto.Metric) int {
			return cmp.Compare(a.GetGauge().GetValue(), b.GetGauge().GetValue())
		}))
		log.Printf("[WARN] metrics: more than %d dests: dropped the series of %q", maxDests, oldest)
		f.drop(prefix, oldest)
	}
}

// text returns the text of the file. The order of the series does not change from one
// deployment to the next.
func (f file) text() ([]byte, error) {
	var buf bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(f)) {
		family := f[name]
		if len(family.Metric) == 0 {
			continue
		}
		slices.SortFunc(family.Metric, compareLabels)
		if _, err := expfmt.MetricFamilyToText(&buf, family); err != nil {
			return nil, err
		}
	}
	return buf.Bytes(), nil
}

// compareLabels is 0 for the same series.
func compareLabels(a, b *dto.Metric) int {
	return slices.CompareFunc(a.Label, b.Label, func(a, b *dto.LabelPair) int {
		return cmp.Or(strings.Compare(a.GetName(), b.GetName()), strings.Compare(a.GetValue(), b.GetValue()))
	})
}

func destOf(m *dto.Metric) string {
	for _, l := range m.Label {
		if l.GetName() == "dest" {
			return l.GetValue()
		}
	}
	return ""
}
