package stretcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/fujiwara/stretcher/internal/checksum"
	"github.com/fujiwara/stretcher/internal/destcheck"
	"github.com/fujiwara/stretcher/internal/envtemplate"
	"github.com/fujiwara/stretcher/internal/fetch"
	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/rsyncfilter"
	"github.com/fujiwara/stretcher/internal/seekable"
	"github.com/fujiwara/stretcher/internal/signature"
	"github.com/fujiwara/stretcher/internal/yamlfields"
)

// Problem is something that is wrong with a manifest.
type Problem struct {
	// Line is the line of the manifest, counted from 1.
	Line int
	// Text is one line that says what is wrong. It has no secrets of URLs, and its
	// control characters are escaped.
	Text string
	// Warning is true where a deployment would log a warning, and false where it
	// would fail.
	Warning bool

	// numbered is true where a deployment names the line, too.
	numbered bool
}

// Check returns everything in a manifest that a deployment with Config.Strict would
// refuse or warn of, in the order of the lines. It deploys nothing and runs nothing.
// manifest is a path, a URL, or "-" for the standard input, which cannot have the
// signature that PublicKeys ask for.
//
// What depends on the host does not count: whether dest exists, for example. Where
// a variable of must_env is not set, that is a warning, and nothing else is said
// about its line.
//
// The error, which has been logged, is one of conf or of reading the manifest.
func Check(ctx context.Context, manifest string, conf Config) ([]Problem, error) {
	defer conf.startLog()()
	if err := conf.check(); err != nil {
		return nil, logged("Configuration", err)
	}
	data, err := readManifest(ctx, manifest, conf)
	if err != nil {
		return nil, logged("Load manifest", err)
	}
	return checkManifest(data, conf), nil
}

// readManifest returns the manifest at a path or a URL, or the standard input for "-".
// With public keys, its signature has been verified.
func readManifest(ctx context.Context, manifest string, conf Config) (data []byte, err error) {
	keys, err := signature.ReadKeys(conf.PublicKeys)
	if err != nil {
		return nil, err
	}
	isURL := strings.Contains(manifest, "://") || strings.HasPrefix(manifest, "file:/")
	switch {
	case len(keys) > 0 && manifest == "-":
		return nil, errors.New("there is no signature beside stdin: give the path or URL of the manifest")
	case len(keys) > 0 && !isURL:
		if manifest, err = filepath.Abs(manifest); err != nil {
			return nil, err
		}
		manifest, isURL = fileURL(manifest), true
	}
	if isURL {
		return conf.fetchManifest(ctx, manifest, keys)
	}
	return fetch.LocalManifest(manifest)
}

func fileURL(path string) string { return (&url.URL{Scheme: "file", Path: path}).String() }

// checkManifest is Check for a manifest that has been read.
func checkManifest(data []byte, conf Config) []Problem {
	if len(data) > fetch.MaxManifest {
		return []Problem{{Line: 1, Text: "larger than " + humanize.IBytes(fetch.MaxManifest)}}
	}
	var list []Problem
	m, template := decodeManifest(data)
	unknown := map[int]bool{} // the lines with a value that only hosts know
	for _, r := range template.Missing {
		list = append(list, Problem{Line: r.Line, Text: fmt.Sprintf("must_env: %s is not set here, so this line was not checked", r.Name), Warning: true})
		unknown[r.Line] = !m.parsed.Wrong("") // a wrong syntax is hardly due to a value
	}
	add := func(p Problem) {
		if !unknown[p.Line] {
			p.Text = redact.Printable(redact.Text(p.Text))
			list = append(list, p)
		}
	}
	for _, line := range template.Odd {
		add(Problem{Line: line, Text: envtemplate.OddText, Warning: true})
	}
	for _, p := range m.parsed.Problems {
		add(Problem{Line: p.Line, Text: p.Text})
	}
	for _, w := range m.parsed.Warnings {
		if w.Kind != yamlfields.Invalid { // which m.problems has
			add(Problem{Line: w.Line, Text: w.Refused().Text, Warning: !odd(w)})
		}
	}
	if !m.parsed.Wrong("") {
		for _, p := range m.problems(conf, destcheck.CheckName) {
			add(p)
		}
	}
	for kind, list := range m.Commands.kinds() {
		for i, line := range list {
			if err := line.checkSize(kind, nil); err != nil { // of the environment, only hosts know the size
				add(Problem{Line: m.parsed.Line("commands."+kind, i), Text: err.Error()})
			}
		}
	}
	slices.SortStableFunc(list, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return slices.Compact(list)
}

// check finds what would fail later, before anything has been done.
func (m *Manifest) check(conf Config) error {
	if conf.Strict {
		var texts []string
		for _, w := range yamlfields.Listed(m.parsed.Warnings) {
			if odd(w) {
				texts = append(texts, w.Refused().String())
			}
		}
		if len(texts) > 0 {
			return fmt.Errorf("manifest: %s (an error because of -strict)", strings.Join(texts, "; "))
		}
	}
	for _, p := range m.problems(conf, destcheck.Check) {
		switch {
		case p.Warning:
			log.Print("[WARN] manifest: ", p.Text)
		case p.numbered:
			return fmt.Errorf("manifest: line %d: %s", p.Line, p.Text)
		default:
			return errors.New("manifest: " + p.Text)
		}
	}
	return nil
}

// problems returns what is wrong with the values of the manifest, in the order in
// which a deployment, which fails with the first one, is to report it. A wrong value
// is an error even where it would not be used, because src is missing. Whether dest
// may be deployed to is for checkDest to say.
func (m *Manifest) problems(conf Config, checkDest func(dest string) error) []Problem {
	var list []Problem
	wrong := m.parsed.Wrong // a value that could not be decoded is not missing
	add := func(err error, path string, item ...int) {
		if err != nil {
			list = append(list, Problem{Line: m.parsed.Line(path, item...), Text: err.Error()})
		}
	}
	warn := func(text, path string) {
		list = append(list, Problem{Line: m.parsed.Line(path), Text: text, Warning: true})
	}

	// What is missing comes before any value: a deployment then shows nothing of a file
	// that may be no manifest.
	if m.Src == "" && m.Commands.empty() && !wrong("src") && !wrong("commands") {
		add(errors.New("neither src nor commands: nothing to deploy (is it a manifest at all?)"), "")
	}
	if m.Src != "" {
		if m.CheckSum == "" && !wrong("checksum") {
			add(errors.New("src without checksum: give the md5, sha1, sha256 or sha512 of the archive in hex"), "")
		}
		if m.Dest == "" && !wrong("dest") {
			add(errors.New("src without dest: name the directory to deploy to"), "")
		}
		if err := fetch.CheckURL(m.Src, conf.Allow); err != nil {
			add(fmt.Errorf("src: %w", err), "src")
		}
	}
	add(m.checkExpires(), "expires")
	if m.CheckSum != "" {
		_, err := checksum.New(m.CheckSum)
		add(err, "checksum")
		if weak := checksum.Weak(m.CheckSum); weak != "" && len(conf.PublicKeys) > 0 {
			add(fmt.Errorf("checksum is %s, so the signature of the manifest would not protect the archive: give its sha256 or sha512 (an error because of -public-key)", weak), "checksum")
		} else if weak != "" {
			warn(fmt.Sprintf("checksum is %s, which does not protect from an archive made to have the same: give its sha256 or sha512", weak), "checksum")
		}
	}
	if m.Index != (Index{}) && !wrong("index") {
		add(seekable.CheckPlace(m.Index.Offset, m.Index.Size, m.Index.SHA256), "index")
	}
	if m.Dest != "" {
		add(checkDest(m.Dest), "dest")
	}
	for _, w := range m.parsed.Warnings {
		if w.Kind == yamlfields.Invalid {
			list = append(list, Problem{Line: w.Line, Text: w.Text, numbered: true})
		}
	}
	_, err := destcheck.ModeBits(m.destMode())
	add(err, "dest_mode")
	add(checkStrategy(m.SyncStrategy), "sync_strategy")
	m.checkReleases(add, warn)
	for i, pattern := range m.Excludes {
		if strings.ContainsRune(pattern, 0) {
			add(errExcludeNUL, "excludes", i)
		} else if err := new(rsyncfilter.List).Add(pattern); err != nil && m.SyncStrategy != "mv" {
			add(fmt.Errorf("excludes: %w", err), "excludes", i)
		}
	}
	if strings.ContainsRune(m.ExcludeFrom, 0) {
		add(errExcludeNUL, "exclude_from")
	} else if m.ExcludeFrom != "" && m.SyncStrategy != "mv" && !fs.ValidPath(filepath.Clean(strings.TrimLeft(m.ExcludeFrom, "/"))) {
		add(fmt.Errorf("exclude_from %q leaves the archive: name a file inside of it", m.ExcludeFrom), "exclude_from")
	}
	m.Commands.check(add)
	return list
}

var errExcludeNUL = errors.New("excludes or exclude_from has a NUL byte")

// checkStrategy reports a name that newStrategy does not know.
func checkStrategy(name string) error {
	switch name {
	case "", "rsync", "mv", "builtin", "symlink":
		return nil
	}
	return fmt.Errorf("invalid strategy %q: expected rsync, mv, builtin or symlink", name)
}

// checkReleases checks the keys that only the strategy symlink uses.
func (m *Manifest) checkReleases(add func(err error, path string, item ...int), warn func(text, path string)) {
	if m.KeepReleases < 0 {
		add(fmt.Errorf("keep_releases %d is not a number of at least 1", m.KeepReleases), "keep_releases")
	}
	if m.SyncStrategy != "symlink" && m.KeepReleases != 0 {
		warn("keep_releases does nothing without sync_strategy: symlink", "keep_releases")
	}
	if m.SyncStrategy != "symlink" && len(m.Shared) > 0 {
		warn("shared does nothing without sync_strategy: symlink", "shared")
	}
	for i, err := range destcheck.CheckSharedPaths(m.Shared) {
		if err != nil {
			add(fmt.Errorf("shared: %w", err), "shared", i)
		}
	}
}
