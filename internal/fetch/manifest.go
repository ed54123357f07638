package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/fujiwara/stretcher/internal/redact"
)

const (
	// MaxManifest is how large a manifest may be, in bytes.
	MaxManifest = 1 << 20
	// maxSignatureSize is how large a signature may be, in bytes. With the longest
	// comments, those of minisign(1) have less than 10 KiB.
	maxSignatureSize = 16 << 10
)

// Manifest returns the object at url, of at most 1 MiB. It decodes a Content-Encoding
// of gzip, to at most 1 MiB, too. Each attempt may take 60 seconds, so that a server
// that sends a byte a second cannot hold up a host for ever. Of the options it uses
// Retries, RetryWait, Headers, Allow, Version and Debug. Errors are those of Download.
func Manifest(ctx context.Context, url string, o Options) ([]byte, error) {
	return small(ctx, newSmall(url, MaxManifest, o))
}

// SignedManifest is Manifest for an object with a detached signature, of at most
// 16 KiB, at SignatureURL(url). It returns the object after verify has accepted it. An
// error of verify is returned as "URL: ...".
//
// If verify fails or the signature is missing, that is a failed attempt, and the next
// one fetches both again: while somebody replaces the two, one may be old and the
// other one new.
func SignedManifest(ctx context.Context, url string, o Options, verify func(manifest, signature []byte) error) ([]byte, error) {
	for _, u := range []string{url, SignatureURL(url)} {
		if err := CheckURL(u, o.Allow); err != nil { // before any request, and not as an attempt
			return nil, err
		}
	}
	var manifest []byte
	attempt := func(ctx context.Context) (err error) {
		m, s := newSmall(url, MaxManifest, o), newSmall(SignatureURL(url), maxSignatureSize, o)
		m.once, s.once = true, true
		if manifest, err = small(ctx, m); err != nil {
			return err
		}
		signature, err := small(ctx, s)
		if errors.As(err, new(missingError)) {
			return fmt.Errorf("%w: the manifest has to be signed, by minisign -S, and its signature published there", err)
		}
		if err != nil {
			return err
		}
		if err = verify(manifest, signature); err != nil {
			return redact.Error(fmt.Errorf("%s: %w", m.name(), err))
		}
		return nil
	}
	if err := o.retry(ctx, "Fetch the signed manifest", attempt, func() {}); err != nil {
		return nil, err
	}
	return manifest, nil
}

// SignatureURL returns the URL of the signature of the object at url: ".minisig"
// is added to the path, before a query.
func SignatureURL(url string) string {
	url = url[:len(url)-len(ignoredPart(url))] // Manifest has warned of it
	end := strings.IndexAny(url, "?#")
	if end < 0 {
		end = len(url)
	}
	path := url[:end]
	if _, rest, ok := strings.Cut(path, "://"); ok && !strings.Contains(rest, "/") {
		path += "/" // otherwise, the suffix would become a part of the host's name
	}
	return path + ".minisig" + url[end:]
}

// missingError is the answer that an object does not exist. It may exist later,
// because an event may arrive before the upload of its object is complete.
type missingError struct{ error }

func (e missingError) Unwrap() error { return e.error }

// newSmall returns a fetcher of an object that is kept in memory.
func newSmall(url string, limit int64, o Options) *fetcher {
	o.Connections, o.MaxBandwidth = 1, 0
	f := newFetcher(url, newSpool(&memory{}, limit), o)
	f.limitAttempts = true
	return f
}

// small fetches an object by a fetcher of newSmall.
func small(ctx context.Context, f *fetcher) ([]byte, error) {
	if err := f.fetch(ctx); err != nil {
		return nil, err
	}
	decoded, err := f.encoding.decode(f.spool.store.(*memory).bytes, f.spool.limit)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", f.name(), err)
	}
	return decoded, nil
}

// LocalManifest returns the manifest at a path, or the standard input for "-". Of one
// that is larger than MaxManifest, it returns a byte more than that.
func LocalManifest(path string) ([]byte, error) {
	in := os.Stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		in = file
	}
	return io.ReadAll(io.LimitReader(in, MaxManifest+1))
}
