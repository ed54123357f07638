// Package upload stores files at the URLs that hosts fetch them from. Nothing that is
// stored is ever replaced, because a host may be fetching it.
package upload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fujiwara/stretcher/internal/fetch"
	"github.com/fujiwara/stretcher/internal/progress"
	"github.com/fujiwara/stretcher/internal/redact"
)

// attempts is how often a request is sent at most.
const attempts = 5

// maxSmall is the size of a stored file that File.Same is asked about, in bytes.
const maxSmall = 64 << 10

var (
	errExists  = errors.New("something is stored there already")
	errMissing = errors.New("nothing is stored there")
	// errUnknown is the error of a store that does not tell whether an object exists.
	errUnknown = errors.New("these credentials may not read it")
	// errLeft is the error of an interrupted upload that could not remove what it had
	// stored.
	errLeft = errors.New("what was sent could not be removed")
)

// object is an object in a store.
type object interface {
	// size returns the size of what is stored, in bytes. It fails with errMissing or
	// errUnknown.
	size(context.Context) (int64, error)
	// put stores the contents of the file. It fails with errExists, and changes
	// nothing, if there is something already. It calls sent, by several goroutines at
	// once, with the number of bytes whenever some are stored.
	put(ctx context.Context, f *os.File, size int64, sent func(bytes int64)) error
}

// Prefix is a URL under which files are stored.
type Prefix string

// NewPrefix returns the prefix at a URL that files can be stored under, which has the
// scheme s3, gs or file, with or without a slash at its end. It may be the absolute
// path of a directory instead.
func NewPrefix(raw string) (Prefix, error) {
	shown := redact.Printable(redact.URL(raw))
	scheme, _, _ := strings.Cut(strings.ToLower(raw), ":")
	if scheme == "http" || scheme == "https" {
		return "", fmt.Errorf("%s: cannot upload by %s: give the URL of a bucket (s3://, gs://), or the directory that the web server serves, and this URL by -url", shown, scheme)
	}
	if filepath.IsAbs(raw) {
		raw = (&url.URL{Scheme: "file", Path: filepath.Clean(raw)}).String()
	}
	p, err := NewPublicPrefix(raw)
	if err != nil {
		return "", err
	}
	if _, err = fetch.NewPlace(p.URL("x"), fetch.Options{}); err != nil {
		return "", fmt.Errorf("%s: expected a prefix, as in s3://bucket/releases, gs://bucket/releases or file:///srv/releases: %w", shown, err)
	}
	return p, nil
}

// NewPublicPrefix returns the prefix at a URL of any scheme that hosts can fetch
// files from.
func NewPublicPrefix(raw string) (Prefix, error) {
	shown := redact.Printable(redact.URL(raw))
	if strings.ContainsAny(raw, "?#") {
		return "", fmt.Errorf("%s: expected a prefix without ? and #: write %%3F and %%23 for these characters", shown)
	}
	if _, err := url.PathUnescape(raw); err != nil {
		// Then the escapes in the names would not be decoded either.
		return "", fmt.Errorf("%s: malformed escape: write %%25 for a percent sign", shown)
	}
	p := Prefix(strings.TrimRight(raw, "/"))
	if err := fetch.CheckURL(p.URL("x"), nil); err != nil {
		return "", fmt.Errorf("%s: expected a prefix, as in s3://bucket/releases or https://example.com/releases: %w", shown, err)
	}
	return p, nil
}

// URL returns the URL of the file with this name under the prefix.
func (p Prefix) URL(name string) string { return string(p) + "/" + url.PathEscape(name) }

// File is a file to store under its base name.
type File struct {
	Path string
	// Same reports whether what is stored under this name, of at most 64 KiB, is as good
	// as the file. If it is nil, only the same bytes are.
	Same func(stored []byte) bool
}

// upload is a file that is being stored.
type upload struct {
	File
	url     string
	object  object
	file    *os.File
	size    int64
	options fetch.Options
}

// Files stores the files in this order, so that a file which leads to others should be
// the last one. What is stored already is not stored again. If another content is
// stored for one of them, nothing is stored. It calls report with a line for each file.
// A request that fails is sent again, up to 5 times in all, whatever Options.Retries is.
func Files(ctx context.Context, p Prefix, files []File, o fetch.Options, report func(string)) error {
	o.Retries = attempts - 1
	var todo []*upload
	for _, f := range files {
		u := &upload{File: f, url: p.URL(filepath.Base(f.Path)), options: o}
		stored, err := u.prepare(ctx)
		if u.file != nil {
			defer u.file.Close()
		}
		if err != nil {
			return fmt.Errorf("upload to %s: %w", redact.URL(u.url), err)
		}
		if stored {
			report("Stored already: " + redact.URL(u.url))
		} else {
			todo = append(todo, u)
		}
	}
	for _, u := range todo {
		err := u.put(ctx)
		if errors.Is(err, errExists) {
			// By another upload, or by an attempt of this one whose answer was lost.
			var same bool
			if same, err = u.stored(ctx); err == nil && !same {
				err = fmt.Errorf("%w, and these credentials may not read it, so that it cannot be compared: allow them to read, or give this release another name", errExists)
			}
		}
		if err != nil {
			return fmt.Errorf("upload to %s: %w", redact.URL(u.url), err)
		}
		report("Uploaded " + redact.URL(u.url))
	}
	return nil
}

// put stores the file, and shows the progress.
func (u *upload) put(ctx context.Context) error {
	step := progress.Reporter{}.Start("Uploading "+u.name(), func() (files, bytes int64) { return 0, u.size })
	defer step.End()
	err := u.object.put(ctx, u.file, u.size, step.AddBytes)
	if err == nil || ctx.Err() == nil {
		return err
	}
	// What was interrupted may have been complete, but for its answer.
	check, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if _, missing := u.object.size(check); errors.Is(missing, errMissing) && !errors.Is(err, errLeft) {
		return fmt.Errorf("%w: nothing is stored there: repeat the command to upload what is missing", context.Cause(ctx))
	}
	return err
}

// name is what the file is called in the log.
func (u *upload) name() string { return redact.Printable(filepath.Base(u.Path)) }

// prepare opens the file and its object, and reports whether it is stored already.
func (u *upload) prepare(ctx context.Context) (stored bool, err error) {
	if u.file, err = os.Open(u.Path); err != nil {
		return false, err
	}
	info, err := u.file.Stat()
	if err != nil {
		return false, err
	}
	u.size = info.Size()
	place, err := fetch.NewPlace(u.url, u.options)
	if err != nil {
		return false, err
	}
	switch {
	case place.S3 != nil:
		u.object, err = newS3(ctx, place.S3)
	case place.GCS != nil:
		u.object, err = newGCS(place.GCS)
	default:
		u.object = file(place.Path)
	}
	if err != nil {
		return false, err
	}
	return u.stored(ctx)
}

// stored reports whether the file is stored already. It is an error if something else
// is.
func (u *upload) stored(ctx context.Context) (bool, error) {
	size, err := u.object.size(ctx)
	if errors.Is(err, errMissing) || errors.Is(err, errUnknown) {
		return false, nil // put tells
	}
	if err != nil {
		return false, err
	}
	same := false
	switch {
	case u.Same != nil && size <= maxSmall:
		var b bytes.Buffer
		err = u.fetch(ctx, size, func(body io.Reader) error {
			_, err := b.ReadFrom(body)
			return err
		})
		same = u.Same(b.Bytes())
	case u.Same == nil && size == u.size:
		err = u.fetch(ctx, size, func(body io.Reader) (err error) {
			step := progress.Reporter{}.Start("Comparing "+u.name()+" with what is stored", func() (files, bytes int64) { return 0, size })
			defer step.End()
			same, err = equal(body, io.NewSectionReader(u.file, 0, size), step)
			return err
		})
	}
	if err == nil && !same {
		err = errors.New("something else is stored there already: hosts may be fetching it, so it is not replaced; give this release another name")
	}
	return err == nil, err
}

// fetch fetches what is stored, as a host does.
func (u *upload) fetch(ctx context.Context, size int64, read func(io.Reader) error) error {
	if size == 0 {
		return read(bytes.NewReader(nil))
	}
	object, err := fetch.OpenObject(u.url, u.options)
	if err != nil {
		return err
	}
	defer object.Close()
	return object.Fetch(ctx, []fetch.Range{{Size: size}}, func(_ context.Context, _ fetch.Range, body io.Reader) error { return read(body) })
}

// equal reports whether two readers have the same bytes.
func equal(a, b io.Reader, done *progress.Step) (bool, error) {
	p, q := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(a, p)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return false, err
		}
		m, otherErr := io.ReadFull(b, q)
		if otherErr != nil && otherErr != io.EOF && otherErr != io.ErrUnexpectedEOF {
			return false, otherErr
		}
		if !bytes.Equal(p[:n], q[:m]) {
			return false, nil
		}
		done.AddBytes(int64(n))
		if n < len(p) {
			return true, nil
		}
	}
}
