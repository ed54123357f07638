package stretcher

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/fujiwara/stretcher/internal/destcheck"
	"github.com/fujiwara/stretcher/internal/envtemplate"
	"github.com/fujiwara/stretcher/internal/fetch"
	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/signature"
	"github.com/fujiwara/stretcher/internal/unixfs"
	"github.com/fujiwara/stretcher/internal/yamlfields"
)

// DefaultDestMode is the mode of dest where neither the archive nor the manifest
// specifies one.
var DefaultDestMode = os.FileMode(0755)

// Manifest describes one deployment. See docs/manifest.md for its keys.
type Manifest struct {
	// Src is the URL of the archive: s3://, gs://, http://, https:// or file://.
	// Where it is "", only the commands are run.
	Src string `yaml:"src"`
	// CheckSum is the digest of the archive as it is stored, in hex: an MD5,
	// SHA-1, SHA-256 or SHA-512, which its length tells apart.
	CheckSum string `yaml:"checksum"`
	// Index is where the archive's own index is. With it, only what dest does not have
	// is fetched. The zero value is none.
	Index Index `yaml:"index,omitempty"`
	// Dest is the absolute path of the directory to deploy to.
	Dest string `yaml:"dest"`
	// DestMode is the mode of Dest, where the archive has no entry for its own root
	// directory. nil is DefaultDestMode. Its set-user-ID, set-group-ID and sticky
	// bits are those of chmod(2), as ParseManifest sets them, or of os.FileMode.
	DestMode *os.FileMode `yaml:"dest_mode"`
	// Commands are run around putting the files in place.
	Commands Commands `yaml:"commands"`
	// Excludes are patterns in the syntax of rsync --exclude.
	Excludes []string `yaml:"excludes"`
	// ExcludeFrom is a file in the archive with such patterns, one a line.
	ExcludeFrom string `yaml:"exclude_from"`
	// SyncStrategy is rsync, mv, builtin or symlink. "" is rsync, or builtin where
	// rsync is not installed.
	SyncStrategy string `yaml:"sync_strategy"`
	// KeepReleases is how many releases the strategy symlink keeps, the current one
	// included. 0 is the default, 5.
	KeepReleases int `yaml:"keep_releases,omitempty"`
	// Shared are paths in the archive, relative to its root, that the strategy
	// symlink keeps in the directory Dest + ".shared", for all releases.
	Shared []string `yaml:"shared"`
	// Expires is when the manifest ceases to be deployed, so that an old one cannot
	// be replayed. The zero time is never.
	Expires time.Time `yaml:"expires,omitempty"`

	parsed parsed
}

// parsed is what ParseManifest noticed and a Manifest has no field for. It is zero
// for a Manifest that was made otherwise.
type parsed struct {
	yamlfields.Result              // what is odd about the manifest, and its lines
	defaultMode       *os.FileMode // the DestMode that was put in place of an absent one
	data              []byte       // the manifest as it was fetched
}

// fetchManifest returns the manifest at url as it was published. If there are keys,
// it has a valid signature by one of them.
func (c Config) fetchManifest(ctx context.Context, url string, keys signature.Keys) ([]byte, error) {
	if len(keys) == 0 {
		return fetch.Manifest(ctx, url, c.fetchOptions())
	}
	return fetch.SignedManifest(ctx, url, c.fetchOptions(), func(manifest, sig []byte) error {
		id, comment, err := keys.Verify(manifest, sig)
		if err == nil {
			log.Printf("Signature ok: by key %s, trusted comment: %s", id, comment)
		}
		return err
	})
}

// ParseManifest parses a manifest in YAML, after replacing the references to
// environment variables in it. Unknown and duplicate keys are logged as warnings;
// otherwise unknown keys are ignored, and the last value of a duplicate key is
// used. DestMode is never nil. Whether the manifest can be deployed is found out by
// Deploy. The error is a single line.
func ParseManifest(data []byte) (*Manifest, error) {
	return parseManifest(data, false)
}

// parseManifest parses a manifest. With strict, check reports unknown and duplicate
// keys, so they are not logged as well.
func parseManifest(data []byte, strict bool) (*Manifest, error) {
	m, template := decodeManifest(data)
	if w := template.Warning(); w != "" {
		log.Printf("[WARN] manifest: %s", w)
	}
	if err := template.Err(); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	for _, w := range yamlfields.Listed(m.parsed.Warnings) {
		if w.Kind != yamlfields.Invalid && !(strict && odd(w)) { // they are for check
			log.Printf("[WARN] manifest: %s", w)
		}
	}
	if err := m.parsed.Err(); err != nil {
		return nil, fmt.Errorf("parse manifest: %w", err)
	}
	return m, nil
}

// decodeManifest decodes a manifest as far as that is possible. What is wrong with
// it is in its parsed, and in the result of its templates.
func decodeManifest(data []byte) (*Manifest, *envtemplate.Result) {
	m := &Manifest{}
	template := envtemplate.Expand(data)
	result := yamlfields.Decode(template.Text, m.fields())
	result.Renumber(template.Line)
	m.parsed.Result, m.parsed.data = *result, data
	if m.DestMode == nil {
		mode := DefaultDestMode
		m.DestMode, m.parsed.defaultMode = &mode, &mode
	}
	return m, template
}

// odd reports whether a warning is an error with -strict.
func odd(w yamlfields.Warning) bool {
	return w.Kind == yamlfields.Unknown || w.Kind == yamlfields.Duplicate
}

// fields says where the value of each key goes.
func (m *Manifest) fields() []yamlfields.Field {
	c := &m.Commands
	commands := func(name string, to *CommandLines) yamlfields.Field {
		return yamlfields.Field{Name: name, Item: "command", To: func(list []string) {
			*to = nil
			for _, line := range list {
				*to = append(*to, CommandLine(line))
			}
		}}
	}
	return []yamlfields.Field{
		{Name: "src", To: &m.Src},
		{Name: "checksum", To: &m.CheckSum},
		{Name: "index", To: []yamlfields.Field{
			{Name: "offset", To: numberTo(&m.Index.Offset)},
			{Name: "size", To: numberTo(&m.Index.Size)},
			{Name: "sha256", To: &m.Index.SHA256},
		}},
		{Name: "dest", To: &m.Dest},
		{Name: "dest_mode", To: func(s yamlfields.Scalar) (warning string, err error) {
			mode, warning, err := destcheck.ParseMode(s.Text, s.Quoted)
			if err == nil {
				m.DestMode = &mode
			}
			return warning, err
		}},
		{Name: "commands", To: []yamlfields.Field{
			commands("pre", &c.Pre),
			commands("post", &c.Post),
			commands("success", &c.Success),
			commands("failure", &c.Failure),
			{Name: "env", To: &c.Env},
		}},
		{Name: "excludes", To: &m.Excludes, Item: "pattern"},
		{Name: "exclude_from", To: &m.ExcludeFrom},
		{Name: "sync_strategy", To: &m.SyncStrategy},
		{Name: "shared", To: &m.Shared, Item: "path"},
		{Name: "expires", NotNull: true, To: func(s yamlfields.Scalar) (err error) {
			m.Expires, err = yamlfields.ParseTime(s.Text)
			return err // no command is run, since it may have expired
		}},
		{Name: "keep_releases", To: func(s yamlfields.Scalar) (warning string, err error) {
			n, err := strconv.Atoi(s.Text)
			if err != nil || n < 1 || s.Quoted {
				return "", fmt.Errorf("keep_releases %.20q is not a number of at least 1", s.Text)
			}
			m.KeepReleases = n
			return "", nil
		}},
	}
}

// checkExpires fails once the manifest has expired.
func (m *Manifest) checkExpires() error {
	now := time.Now()
	if m.Expires.IsZero() || !now.After(m.Expires) {
		return nil
	}
	return fmt.Errorf("expired at %s, and the clock of this host says %s: publish a new one", m.Expires.Format(time.RFC3339), now.In(m.Expires.Location()).Format(time.RFC3339))
}

// hasDestMode reports whether the manifest sets dest_mode.
func (m *Manifest) hasDestMode() bool {
	return m.DestMode != nil && m.DestMode != m.parsed.defaultMode
}

// destMode returns the mode of dest for an archive that does not specify it.
func (m *Manifest) destMode() os.FileMode {
	if m.DestMode != nil {
		return *m.DestMode
	}
	return DefaultDestMode
}

// cleaned returns the manifest with its Dest and DestMode in the form that
// strategies expect: without ".." and a trailing slash, and as the bits of chmod(2).
func (m *Manifest) cleaned() *Manifest {
	c := *m
	c.Dest = unixfs.CleanPath(m.Dest)
	if bits, err := destcheck.ModeBits(m.destMode()); err == nil && bits != m.destMode() {
		c.DestMode = &bits
	}
	return &c
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

// Index says where the index of an archive is in it, as stretcher pack writes it
// to a manifest. The zero value stands for an archive without an index.
type Index struct {
	// Offset and Size are those of the index in the archive, in bytes.
	Offset int64 `yaml:"offset"`
	Size   int64 `yaml:"size"`
	// SHA256 is the digest of the index, in hex.
	SHA256 string `yaml:"sha256"`
}

// numberTo returns a parser of a number of bytes, which is stored in *to.
func numberTo(to *int64) func(yamlfields.Scalar) (warning string, err error) {
	return func(s yamlfields.Scalar) (warning string, err error) {
		if *to, err = strconv.ParseInt(s.Text, 10, 64); err != nil {
			err = fmt.Errorf("index: %.20q is not a number", s.Text)
		}
		return "", err
	}
}
