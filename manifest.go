package stretcher

import (
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
)

// DefaultDestMode is the mode of dest where neither the archive nor the
// manifest says another.
var DefaultDestMode = os.FileMode(0755)

// Manifest describes one deployment. See the README for its keys.
type Manifest struct {
	// Src is the URL of the archive. Without it only the commands are run.
	Src string `yaml:"src"`
	// CheckSum is the hex digest of the archive as it is downloaded: of MD5,
	// SHA-1, SHA-256 or SHA-512, told apart by its length.
	CheckSum string `yaml:"checksum"`
	// Dest is the absolute path of the directory to deploy to.
	Dest string `yaml:"dest"`
	// DestMode is the mode of Dest where the archive has no entry for its own
	// root, as the permission bits of chmod(2). nil is DefaultDestMode.
	DestMode *os.FileMode `yaml:"dest_mode"`
	// Commands are run around putting the files in place.
	Commands Commands `yaml:"commands"`
	// Excludes are patterns as of rsync --exclude.
	Excludes []string `yaml:"excludes"`
	// ExcludeFrom is a file in the archive with such patterns, a line each.
	ExcludeFrom string `yaml:"exclude_from"`
	// SyncStrategy is rsync, mv or builtin. "" is rsync, or builtin where
	// rsync is not installed.
	SyncStrategy string `yaml:"sync_strategy"`
}

// ParseManifest reads a manifest in YAML, replaces the references to the
// environment in it, and checks it. Unknown keys are logged and ignored.
func ParseManifest(data []byte) (*Manifest, error) {
	data, err := expandEnv(data)
	if err != nil {
		return nil, err
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

// oddKey rewords what the YAML package says of a key that it did not expect.
func oddKey(e string) string {
	e = unknownKeyError.ReplaceAllString(e, "line $1: unknown key $2 is ignored")
	return duplicateKeyError.ReplaceAllString(e, "line $1: key $2 stands there twice, the last one counts")
}

// oneLine joins the lines of a YAML error, since a log line is one line.
func oneLine(err error) error {
	var t *yaml.TypeError
	if errors.As(err, &t) {
		return errors.New(strings.Join(t.Errors, "; "))
	}
	return err
}

var envReference = regexp.MustCompile(`\{\{\s*(env|must_env)((?:\s+(?:"(?:[^"\\\n]|\\.)*"|` + "`[^`\n]*`" + `)){1,2})\s*\}\}`)
var quotedString = regexp.MustCompile(`"(?:[^"\\\n]|\\.)*"|` + "`[^`\n]*`")

// expandEnv replaces {{ env "NAME" "default" }} and {{ must_env "NAME" }} by
// the values of environment variables. A variable that is empty counts as
// missing for env. Anything else in braces is left alone.
func expandEnv(data []byte) ([]byte, error) {
	var missing []string
	data = envReference.ReplaceAllFunc(data, func(ref []byte) []byte {
		parts := envReference.FindSubmatch(ref)
		var args []string
		for _, q := range quotedString.FindAll(parts[2], -1) {
			arg, err := strconv.Unquote(string(q))
			if err != nil {
				return ref
			}
			args = append(args, arg)
		}
		if string(parts[1]) == "must_env" {
			if len(args) != 1 {
				return ref
			}
			value, ok := os.LookupEnv(args[0])
			if !ok && !slices.Contains(missing, args[0]) {
				missing = append(missing, args[0])
			}
			return []byte(value)
		}
		if value := os.Getenv(args[0]); value != "" || len(args) == 1 {
			return []byte(value)
		}
		return []byte(args[1])
	})
	if len(missing) > 0 {
		return nil, fmt.Errorf("manifest: must_env: %s not set in the environment of the agent", strings.Join(missing, ", "))
	}
	return data, nil
}

// check finds what would fail later, before anything has been done. A key
// that is wrong counts as wrong also where src is missing and nobody reads it.
func (m *Manifest) check() error {
	if m.Src == "" && m.Commands.empty() {
		return errors.New("manifest: neither src nor commands: nothing to deploy (is it a manifest at all?)")
	}
	if m.Src != "" {
		if _, err := newSource(m.Src); err != nil {
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
		if err := checkDest(m.Dest); err != nil {
			return fmt.Errorf("manifest: %w", err)
		}
	}
	if m.DestMode != nil && *m.DestMode > 07777 {
		return fmt.Errorf("manifest: dest_mode %d is no file mode: write it in octal, as 0755", uint32(*m.DestMode))
	}
	if m.DestMode != nil && looksOctal(*m.DestMode) {
		log.Printf("[WARN] manifest: dest_mode %d is a decimal number and means %#o; write 0%[1]d if that was meant", uint32(*m.DestMode), *m.DestMode)
	}
	switch m.SyncStrategy {
	case "", "rsync", "mv", "builtin":
	default:
		return fmt.Errorf("manifest: %w", invalidStrategy(m.SyncStrategy))
	}
	if strings.ContainsRune(m.ExcludeFrom, 0) || slices.ContainsFunc(m.Excludes, func(p string) bool { return strings.ContainsRune(p, 0) }) {
		return errors.New("manifest: excludes or exclude_from has a NUL byte")
	}
	if m.ExcludeFrom != "" && !fs.ValidPath(filepath.Clean(strings.TrimLeft(m.ExcludeFrom, "/"))) {
		return fmt.Errorf("manifest: exclude_from %q leaves the archive: name a file inside of it", m.ExcludeFrom)
	}
	return m.Commands.checkEnv()
}

// looksOctal tells whether a mode was most likely written without the zero that
// makes it octal: 755 is 01363, which nobody wants.
func looksOctal(mode os.FileMode) bool {
	decimal := strconv.Itoa(int(mode))
	return len(decimal) == 3 && strings.Trim(decimal, "01234567") == "" && decimal[0] >= '6'
}

func checkDest(dest string) error {
	if !filepath.IsAbs(dest) {
		return fmt.Errorf("dest %q is not an absolute path", dest)
	}
	if strings.ContainsRune(dest, 0) {
		return fmt.Errorf("dest %q has a NUL byte", dest)
	}
	real, err := realPath(dest)
	isRoot := plainPath(dest) == "/" || err == nil && real == "/"
	if info, err := os.Stat(real); err == nil && !isRoot { // a bind mount?
		root, err := os.Stat("/")
		isRoot = err == nil && os.SameFile(info, root)
	}
	if isRoot {
		return fmt.Errorf("dest %s is the root directory, whose other files would be deleted", dest)
	}
	return nil
}

// destMode returns the mode of dest for an archive that does not say it.
func (m *Manifest) destMode() os.FileMode {
	if m.DestMode != nil {
		return *m.DestMode
	}
	return DefaultDestMode
}
