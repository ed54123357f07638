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
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/fujiwara/stretcher"
	"github.com/fujiwara/stretcher/internal/fetch"
	"github.com/fujiwara/stretcher/internal/pack"
	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/signature"
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
  -manifest FILE         write a manifest
  -manifest-from FILE    the manifest without src, checksum and index
  -sign KEY              sign the manifest by the secret key of minisign in this
                         file, and write the signature to MANIFEST.minisig
  -password-file FILE    the password of the key is the first line of this file
                         (default: it is asked for on the terminal)
  -h, -help              show this help

The last line on stdout is the URL of the manifest, or else the archive.

Example:
  stretcher pack -base app-1.tar.zst -o app-2.tar.zst -manifest app-2.yml \
      -manifest-from app.yml build/
`

// packOptions are what the command line of stretcher pack requests.
type packOptions struct {
	dir, output            string
	manifest, manifestFrom string
	sign, passwordFile     string
	bases                  []string
	pack.Options
}

// parsePackFlags returns what the arguments request, or else flag.ErrHelp, or an
// error that describes invalid usage.
func parsePackFlags(args []string, variable func(string) string) (*packOptions, error) {
	o := &packOptions{}
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
		o.output = filepath.Base(abs) + map[string]string{"": ".tar.zst", "zst": ".tar.zst", "gz": ".tar.gz", "tar": ".tar"}[o.Format]
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
	if len(o.bases) > 0 && o.Format != "" && o.Format != "zst" {
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
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, errors.New("expected a time, as 2026-11-29T12:00:00Z, or a number of seconds since 1970")
	}
	return t, nil
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
	ctx, _ := onSignals()
	if err := runPack(ctx, o); err != nil {
		fmt.Fprintf(os.Stderr, "stretcher pack: %s\n", redact.Printable(redact.Error(err).Error()))
		os.Exit(1)
	}
}

// runPack packs a directory and writes the manifest.
func runPack(ctx context.Context, o *packOptions) (err error) {
	var key signature.SecretKey
	if o.sign != "" {
		key, err = signature.ReadSecretKey(o.sign, func() (string, error) { return readPassword(ctx, o.passwordFile, o.sign) })
		if err != nil {
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
	var template []byte
	if o.manifestFrom != "" {
		if template, err = os.ReadFile(o.manifestFrom); err != nil {
			return err
		}
	}
	r, err := packTo(ctx, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "Packed %s: %d files and directories, %s to %s in %s\n", o.dir, r.Files, humanize.IBytes(uint64(r.TarSize)), humanize.IBytes(uint64(r.Size)), time.Since(start).Round(time.Millisecond))
	for _, p := range r.Patches {
		fmt.Fprintf(os.Stderr, "Patches against %s: %d, %s\n", p.Base, p.Count, humanize.IBytes(uint64(p.Size)))
	}
	result, err := fileURL(o.output)
	if err != nil {
		return err
	}
	if o.manifest != "" {
		text := pack.Manifest(template, result, hex.EncodeToString(r.Sum[:]), r.Index)
		if err := writeFile(o.manifest, func(f *os.File) error { _, err := f.Write(text); return err }); err != nil {
			return err
		}
		if result, err = fileURL(o.manifest); err != nil {
			return err
		}
		problems, err := stretcher.Check(ctx, o.manifest, stretcher.Config{})
		if err != nil {
			return err
		}
		for _, p := range problems {
			fmt.Fprintf(os.Stderr, "%s:%d: %s\n", o.manifest, p.Line, p.Text)
			if !p.Warning {
				err = fmt.Errorf("the manifest %s would be refused", o.manifest)
			}
		}
		if err != nil {
			return err
		}
		if o.sign != "" {
			text, err := key.Sign(filepath.Base(o.manifest), text, time.Now())
			if err != nil {
				return err
			}
			if err := writeFile(o.manifest+".minisig", func(f *os.File) error { _, err := f.Write(text); return err }); err != nil {
				return err
			}
		}
	}
	fmt.Println(result)
	return nil
}

// packTo writes the archive.
func packTo(ctx context.Context, o *packOptions) (r pack.Result, err error) {
	err = writeFile(o.output, func(f *os.File) error {
		r, err = pack.Dir(ctx, o.dir, f, o.Options)
		return err
	})
	return r, err
}

// writeFile writes a file that replaces any other one of its name once it is complete.
func writeFile(name string, write func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".")
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

// fileURL returns the URL of a file.
func fileURL(name string) (string, error) {
	abs, err := filepath.Abs(name)
	return (&url.URL{Scheme: "file", Path: abs}).String(), err
}
