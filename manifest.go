package stretcher

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v2"

	"github.com/fujiwara/stretcher/internal/destcheck"
	"github.com/fujiwara/stretcher/internal/envtemplate"
	"github.com/fujiwara/stretcher/internal/fetch"
	"github.com/fujiwara/stretcher/internal/redact"
)

// DefaultDestMode is the mode of dest where neither the archive nor the manifest
// specifies one.
var DefaultDestMode = os.FileMode(0755)

// Manifest describes one deployment. See the README for its keys.
type Manifest struct {
	// Src is the URL of the archive: s3://, gs://, http://, https:// or file://.
	// Where it is "", only the commands are run.
	Src string `yaml:"src"`
	// CheckSum is the digest of the archive as it is stored, in hex: an MD5,
	// SHA-1, SHA-256 or SHA-512, which its length tells apart.
	CheckSum string `yaml:"checksum"`
	// Dest is the absolute path of the directory to deploy to.
	Dest string `yaml:"dest"`
	// DestMode is the mode of Dest, as the bits of chmod(2), where the archive
	// has no entry for its own root directory. nil is DefaultDestMode.
	DestMode *os.FileMode `yaml:"dest_mode"`
	// Commands are run around putting the files in place.
	Commands Commands `yaml:"commands"`
	// Excludes are patterns in the syntax of rsync --exclude.
	Excludes []string `yaml:"excludes"`
	// ExcludeFrom is a file in the archive with such patterns, one a line.
	ExcludeFrom string `yaml:"exclude_from"`
	// SyncStrategy is rsync, mv or builtin. "" is rsync, or builtin where
	// rsync is not installed.
	SyncStrategy string `yaml:"sync_strategy"`
}

// ParseManifest parses a manifest in YAML, after replacing the references to
// environment variables in it, and checks it. Unknown and duplicate keys are
// logged as warnings; otherwise unknown keys are ignored, and the last value of a
// duplicate key is used. The error is a single line.
func ParseManifest(data []byte) (*Manifest, error) {
	data, err := envtemplate.Expand(data)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	m := &Manifest{}
	if err := yaml.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("parse manifest: %w", oneLine(err))
	}
	var odd *yaml.TypeError
	if err := yaml.UnmarshalStrict(data, &Manifest{}); errors.As(err, &odd) {
		for _, e := range odd.Errors {
			log.Printf("[WARN] manifest: %s", oddKey(e))
		}
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return m, nil
}

var (
	unknownKeyError   = regexp.MustCompile(`^line (\d+): field (.*) not found in type .*$`)
	duplicateKeyError = regexp.MustCompile(`^line (\d+): (?:field|key) (.*) already set in .*$`)
)

// oddKey rewords what the YAML package says about an unknown or duplicate key.
func oddKey(e string) string {
	e = unknownKeyError.ReplaceAllString(e, "line $1: unknown key $2 is ignored")
	return duplicateKeyError.ReplaceAllString(e, "line $1: duplicate key $2: the last value is used")
}

// oneLine joins the lines of a YAML error, so that it makes one line of log.
func oneLine(err error) error {
	var t *yaml.TypeError
	if errors.As(err, &t) {
		return errors.New(strings.Join(t.Errors, "; "))
	}
	return err
}

// check finds what would fail later, before anything has been done. A wrong value
// is an error even where it would not be used, because src is missing.
func (m *Manifest) check() error {
	if m.Src == "" && m.Commands.empty() {
		return errors.New("manifest: neither src nor commands: nothing to deploy (is it a manifest at all?)")
	}
	if m.Src != "" {
		if err := fetch.CheckURL(m.Src); err != nil {
			return fmt.Errorf("manifest: src: %w", err)
		}
		if m.CheckSum == "" {
			return errors.New("manifest: src without checksum: give the md5, sha1, sha256 or sha512 of the archive in hex")
		}
		if m.Dest == "" {
			return errors.New("manifest: src without dest: name the directory to deploy to")
		}
	}
	if m.CheckSum != "" {
		if _, err := newDigest(m.CheckSum); err != nil {
			return fmt.Errorf("manifest: %w", err)
		}
	}
	if m.Dest != "" {
		if err := destcheck.Check(m.Dest); err != nil {
			return fmt.Errorf("manifest: %w", err)
		}
	}
	if m.DestMode != nil && *m.DestMode > 07777 {
		return fmt.Errorf("manifest: dest_mode %d is not a file mode: write it in octal, as 0755", uint32(*m.DestMode))
	}
	if m.DestMode != nil && looksOctal(*m.DestMode) {
		log.Printf("[WARN] manifest: dest_mode %d is a decimal number and means %#o; write 0%[1]d if that was meant", uint32(*m.DestMode), *m.DestMode)
	}
	if err := checkStrategy(m.SyncStrategy); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if strings.ContainsRune(m.ExcludeFrom, 0) || slices.ContainsFunc(m.Excludes, func(p string) bool { return strings.ContainsRune(p, 0) }) {
		return errors.New("manifest: excludes or exclude_from has a NUL byte")
	}
	if m.ExcludeFrom != "" && !fs.ValidPath(filepath.Clean(strings.TrimLeft(m.ExcludeFrom, "/"))) {
		return fmt.Errorf("manifest: exclude_from %q leaves the archive: name a file inside of it", m.ExcludeFrom)
	}
	return m.Commands.check()
}

// looksOctal reports whether a mode was most likely written without the leading
// zero that makes it octal: 755 would be 01363.
func looksOctal(mode os.FileMode) bool {
	decimal := strconv.Itoa(int(mode))
	return len(decimal) == 3 && strings.Trim(decimal, "01234567") == "" && decimal[0] >= '6'
}

// destMode returns the mode of dest for an archive that does not specify it.
func (m *Manifest) destMode() os.FileMode {
	if m.DestMode != nil {
		return *m.DestMode
	}
	return DefaultDestMode
}

// summary describes a manifest in the log. Its commands are logged when they
// run.
func (m *Manifest) summary() string {
	c := &m.Commands
	s := fmt.Sprintf("commands: %d pre, %d post, %d success, %d failure", len(c.Pre), len(c.Post), len(c.Success), len(c.Failure))
	if m.Src == "" {
		return s
	}
	return fmt.Sprintf("src: %s, checksum: %s, dest: %s, sync_strategy: %s, %s", redact.URL(m.Src), m.CheckSum, m.Dest, cmp.Or(m.SyncStrategy, "(default)"), s)
}
