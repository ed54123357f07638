package main

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/fujiwara/stretcher"
	"github.com/fujiwara/stretcher/internal/fetch"
	"github.com/fujiwara/stretcher/internal/pack"
	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/seekable"
	"github.com/fujiwara/stretcher/internal/signature"
	"github.com/fujiwara/stretcher/internal/unixfs"
	"github.com/fujiwara/stretcher/internal/upload"
	"github.com/fujiwara/stretcher/internal/yamlfields"
)

const packUsage = `Usage: stretcher pack [options] DIR

Makes an archive of the directory DIR, and a manifest that deploys it. The same
tree always gives the same archive. A host that has an older version of the tree
fetches only what has changed, if the manifest names the archive's index.

  -o FILE                the archive (default DIR.tar.zst)
  -format FORMAT         zst, gz or tar; only zst has an index (default zst)
  -base OLD              add patches against an older version: a directory, or
                         the path or URL of an archive; may be repeated
  -exclude PATTERN       leave out what matches, as rsync does; may be repeated
  -mtime TIME            give no file a later modification time: RFC 3339, or a
                         number of seconds since 1970 (default SOURCE_DATE_EPOCH)
  -owner USER:GROUP      give everything this owner and group, names or numbers,
                         such as root:root (default: the numbers they have here)
  -manifest FILE         write a manifest
  -manifest-from FILE    the manifest without src, checksum and index
  -sign KEY              sign the manifest by the secret key of minisign in this
                         file, and write the signature to MANIFEST.minisig
  -password-file FILE    the password of the key is the first line of this file
                         (default: it is asked for on the terminal)
  -upload URL            store archive, signature and manifest under this URL of a
                         bucket or directory (s3, gs, file), or in the directory at
                         this absolute path; nothing is replaced
  -url URL               hosts find them under this URL (default: that of -upload)
  -h, -help              show this help

The last line on stdout is the URL of the manifest, or of the archive if no
manifest is written. The exit status is 0 after a success, 1 after a failure, and 2
for an invalid option or argument.

Example:
  stretcher pack -base app-1.tar.zst -o app-2.tar.zst -manifest app-2.yml \
      -manifest-from app.yml -sign release.key -upload s3://releases/app build/
`

// packOptions are what the command line of stretcher pack requests.
type packOptions struct {
	dir, output            string
	manifest, manifestFrom string
	sign, passwordFile     string
	upload, url            upload.Prefix
	bases                  []string
	pack.Options
}

// parsePackFlags returns what the arguments request, or else flag.ErrHelp, or an
// error that describes invalid usage.
func parsePackFlags(args []string, variable func(string) string) (*packOptions, error) {
	o := &packOptions{Options: pack.Options{Format: "zst"}}
	f := flag.NewFlagSet("stretcher pack", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	appendTo := func(list *[]string) func(string) error {
		return func(s string) error {
			*list = append(*list, s)
			return nil
		}
	}
	f.StringVar(&o.output, "o", "", "")
	f.StringVar(&o.manifest, "manifest", "", "")
	f.StringVar(&o.manifestFrom, "manifest-from", "", "")
	f.StringVar(&o.sign, "sign", "", "")
	f.StringVar(&o.passwordFile, "password-file", "", "")
	f.Func("base", "", appendTo(&o.bases))
	f.Func("exclude", "", appendTo(&o.Excludes))
	f.Func("upload", "", func(s string) (err error) {
		o.upload, err = upload.NewPrefix(s)
		return err
	})
	f.Func("url", "", func(s string) (err error) {
		o.url, err = upload.NewPublicPrefix(s)
		return err
	})
	f.Func("owner", "", func(s string) (err error) {
		o.Owner, err = pack.ParseOwner(s)
		return err
	})
	f.Func("format", "", func(s string) error {
		if o.Format = s; s != "zst" && s != "gz" && s != "tar" {
			return errors.New("expected zst, gz or tar")
		}
		return nil
	})
	f.Func("mtime", "", func(s string) (err error) {
		o.Latest, err = parseTime(s)
		return err
	})
	others, err := parseArguments(f, args)
	if err != nil {
		return nil, err
	}
	if len(others) != 1 {
		return nil, fmt.Errorf("expected one directory to pack, got %d", len(others))
	}
	if o.dir = others[0]; o.output == "" {
		abs, err := filepath.Abs(o.dir)
		if err != nil {
			return nil, err
		}
		o.output = filepath.Base(abs) + map[string]string{"zst": ".tar.zst", "gz": ".tar.gz", "tar": ".tar"}[o.Format]
	}
	if o.manifestFrom != "" && o.manifest == "" {
		return nil, errors.New("-manifest-from without -manifest: name the manifest to write")
	}
	if o.sign != "" && o.manifest == "" {
		return nil, errors.New("-sign without -manifest: name the manifest to write and to sign")
	}
	if o.passwordFile != "" && o.sign == "" {
		return nil, errors.New("-password-file without -sign: name the secret key that has this password")
	}
	if o.url == "" {
		o.url = o.upload
	}
	if filepath.Base(o.output) == filepath.Base(o.manifest) {
		return nil, fmt.Errorf("archive and manifest have the same name, %s: give the manifest another one", filepath.Base(o.output))
	}
	if len(o.bases) > 0 && o.Format != "zst" {
		return nil, fmt.Errorf("-base with -format %s: only zst has patches", o.Format)
	}
	if epoch := variable("SOURCE_DATE_EPOCH"); epoch != "" && o.Latest.IsZero() {
		if o.Latest, err = parseTime(epoch); err != nil {
			return nil, fmt.Errorf("invalid value %q for SOURCE_DATE_EPOCH: %w", epoch, err)
		}
	}
	return o, nil
}

// parseTime parses a time in RFC 3339, or in seconds since 1970.
func parseTime(s string) (time.Time, error) {
	if seconds, err := strconv.ParseInt(strings.TrimPrefix(s, "@"), 10, 64); err == nil {
		return time.Unix(seconds, 0), nil
	}
	at, err := yamlfields.ParseTime(s)
	if err != nil {
		err = fmt.Errorf("%w, or as a number of seconds since 1970", err)
	}
	return at, err
}

// packMain is the command stretcher pack.
func packMain(args []string) {
	o, err := parsePackFlags(args, os.Getenv)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(packUsage)
		return
	}
	if err != nil {
		exitUsage(err, "stretcher pack", "")
	}
	if os.Getenv("GOGC") == "" {
		// The tables of the encoders are large, and live as long as there is work.
		debug.SetGCPercent(50)
		debug.SetMemoryLimit(384 << 20)
	}
	ctx, _ := onSignals()
	if err := runPack(ctx, o); err != nil {
		fmt.Fprintf(os.Stderr, "stretcher pack: %v\n", redact.Error(err))
		os.Exit(1)
	}
}

// runPack packs a directory and writes the manifest.
func runPack(ctx context.Context, o *packOptions) (err error) {
	if info, err := os.Stat(o.dir); err != nil {
		return err
	} else if !info.IsDir() {
		return fmt.Errorf("%s: not a directory", o.dir)
	}
	var key signature.SecretKey
	if o.sign != "" {
		key, err = signature.ReadSecretKey(o.sign, func() (string, error) { return readPassword(ctx, o.passwordFile, o.sign) })
		if err != nil {
			return err
		}
	}
	var template []byte
	if o.manifest != "" {
		if template, err = o.readTemplate(ctx); err != nil {
			return err
		}
	}
	start := time.Now()
	for _, from := range o.bases {
		base, err := pack.OpenBase(ctx, from, fetch.Options{Version: stretcher.Version})
		if err != nil {
			return fmt.Errorf("base %s: %w", redact.URL(from), err)
		}
		defer base.Close()
		o.Bases = append(o.Bases, base)
	}
	r, err := packTo(ctx, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "Packed %s: %d files and directories, %s to %s in %s\n", o.dir, r.Files, humanize.IBytes(uint64(r.TarSize)), humanize.IBytes(uint64(r.Size)), time.Since(start).Round(time.Millisecond))
	for _, p := range r.Patches {
		fmt.Fprintf(os.Stderr, "Patches against %s: %d, %s\n", p.Base, p.Count, humanize.IBytes(uint64(p.Size)))
	}
	result, err := o.urlOf(o.output)
	if err != nil {
		return err
	}
	files := []upload.File{{Path: o.output}}
	if o.manifest != "" {
		text := pack.Manifest(template, result, hex.EncodeToString(r.Sum[:]), r.Index)
		if err := writeFile(o.manifest, text); err != nil {
			return err
		}
		if result, err = o.urlOf(o.manifest); err != nil {
			return err
		}
		if o.sign != "" {
			signed, err := writeSignature(o.manifest, text, key)
			if err != nil {
				return err
			}
			files = append(files, signed)
		}
		// The last one, so that no host gets it before what it names.
		files = append(files, upload.File{Path: o.manifest})
	}
	if o.upload != "" {
		options := fetch.Options{Version: stretcher.Version, RetryWait: time.Second}
		err := upload.Files(ctx, o.upload, files, options, func(line string) { fmt.Fprintln(os.Stderr, redact.Printable(line)) })
		if err != nil {
			return err
		}
	}
	fmt.Println(result)
	return nil
}

// urlOf returns the URL of a file that is made: where hosts find it, or else here.
func (o *packOptions) urlOf(name string) (string, error) {
	if o.url != "" {
		return o.url.URL(filepath.Base(name)), nil
	}
	abs, err := filepath.Abs(name)
	return (&url.URL{Scheme: "file", Path: abs}).String(), err
}

// readTemplate reads the template of the manifest. It is an error if agents would
// refuse the manifest, before the archive is made, which may take minutes.
func (o *packOptions) readTemplate(ctx context.Context) (template []byte, err error) {
	if o.manifestFrom != "" {
		if template, err = os.ReadFile(o.manifestFrom); err != nil {
			return nil, err
		}
	}
	src, err := o.urlOf(o.output)
	if err != nil {
		return nil, err
	}
	var index *seekable.Place
	if o.Format == "zst" {
		index = &seekable.Place{Offset: 1, Size: 1}
	}
	draft, err := os.CreateTemp("", "stretcher-pack-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.Remove(draft.Name())) }()
	_, err = draft.Write(pack.Manifest(template, src, strings.Repeat("0", 64), index))
	if err = errors.Join(err, draft.Close()); err != nil {
		return nil, err
	}
	problems, err := stretcher.Check(ctx, draft.Name(), stretcher.Config{})
	for _, p := range problems {
		fmt.Fprintf(os.Stderr, "%s:%d: %s\n", redact.Printable(o.manifest), p.Line, p.Text)
		if !p.Warning {
			err = fmt.Errorf("the manifest %s would be refused", o.manifest)
		}
	}
	return template, err
}

// writeSignature signs a manifest, and returns the file of the signature. A stored
// signature of the same manifest by the same key is as good, if made at another time.
func writeSignature(manifest string, text []byte, key signature.SecretKey) (upload.File, error) {
	signed, err := key.Sign(filepath.Base(manifest), text, time.Now())
	if err != nil {
		return upload.File{}, err
	}
	name := manifest + ".minisig"
	err = writeFile(name, signed)
	return upload.File{Path: name, Same: func(stored []byte) bool { return key.Signed(text, stored) }}, err
}

// packTo writes the archive.
func packTo(ctx context.Context, o *packOptions) (r pack.Result, err error) {
	if err := checkReplaced(o.output); err != nil {
		return r, err
	}
	err = unixfs.WriteFile(o.output, 0o644, os.Rename, func(f *os.File) error {
		r, err = pack.Dir(ctx, o.dir, f, o.Options)
		return err
	})
	return r, err
}

// writeFile writes a file that replaces any other one of its name.
func writeFile(name string, contents []byte) error {
	if err := checkReplaced(name); err != nil {
		return err
	}
	return unixfs.WriteFile(name, 0o644, os.Rename, func(f *os.File) error {
		_, err := f.Write(contents)
		return err
	})
}

// checkReplaced fails for the path of something other than a file, such as /dev/null,
// which root would replace.
func checkReplaced(name string) error {
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("write %s: it exists and is not a regular file", name)
	}
	return nil
}
