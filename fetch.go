package stretcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/url"
	"strings"
	"time"

	"golang.org/x/time/rate"
)

const (
	// maxManifestSize bounds what is taken for a manifest, in bytes.
	maxManifestSize = 1 << 20
	// parallelSize is from where on several connections are worth it.
	parallelSize = 16 << 20
	// partSize is what a connection asks for at a time.
	partSize = 8 << 20
	// chunkSize is what is read and stored at a time.
	chunkSize = 256 << 10
	// maxRetryAfter bounds what a server may ask us to wait.
	maxRetryAfter = 10 * time.Minute
)

// stallTimeout is how long a transfer may go without a byte.
var stallTimeout = 60 * time.Second

// source is an object at a URL of some scheme.
type source interface {
	// open returns the object's bytes from offset on, length of them, or all
	// the rest where length is negative. Where validator is not "" and no
	// longer that of the object, it may fail with errChanged, or return the
	// object from its beginning.
	open(ctx context.Context, offset, length int64, validator string) (*object, error)
	close() error
}

// object is what a source has opened.
type object struct {
	body      io.ReadCloser
	offset    int64  // of the body's first byte: 0 where the source does not know ranges
	size      int64  // of the whole object; negative where unknown
	validator string // changes with the object; "" where the source has none
	ranges    bool   // other parts can be opened at the same time
}

var (
	errChanged = errors.New("the object changed during its download")
	errStalled = errors.New("stalled")
)

// permanentError is an error that another attempt would meet again.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

func permanent(err error) error { return permanentError{err} }

// busyError is the answer of a server that says when to come back.
type busyError struct {
	error
	after time.Duration
}

func (e busyError) Unwrap() error { return e.error }

// newSource returns the source that a URL names, without opening it.
func newSource(rawURL string) (source, error) {
	scheme, rest, ok := strings.Cut(rawURL, "://")
	if !ok {
		return nil, fmt.Errorf("%.200q is no URL: expected s3://, gs://, http://, https:// or file://", rawURL)
	}
	switch strings.ToLower(scheme) {
	case "file":
		return newFileSource(rest)
	case "http", "https":
		return newHTTPSource(rawURL)
	case "s3":
		bucket, key, err := splitBucket(rest)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", rawURL, err)
		}
		return &s3Source{bucket: bucket, key: key}, nil
	case "gs":
		bucket, key, err := splitBucket(rest)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", rawURL, err)
		}
		return &gcsSource{bucket: bucket, key: key}, nil
	}
	return nil, fmt.Errorf("%s: unknown scheme %q: expected s3, gs, http, https or file", redact(rawURL), scheme)
}

// splitBucket takes the bucket and the key from what follows s3:// or gs://.
// In the key, percent escapes stand for what they encode.
func splitBucket(rest string) (bucket, key string, err error) {
	bucket, key, _ = strings.Cut(rest, "/")
	if bucket == "" || key == "" {
		return "", "", errors.New("expected a bucket and a key, as in s3://bucket/key")
	}
	return bucket, unescape(key), nil
}

// unescape decodes percent escapes, unless there is one that is none: then
// the text was not escaped.
func unescape(s string) string {
	if plain, err := url.PathUnescape(s); err == nil {
		return plain
	}
	return s
}

// fetchManifest returns the manifest at a URL.
func fetchManifest(ctx context.Context, conf Config, url string) ([]byte, error) {
	m := &memory{}
	f := fetcher{url: url, retries: conf.Retry, wait: conf.RetryWait, connections: 1, to: newSpool(m, maxManifestSize)}
	if err := f.fetch(ctx); err != nil {
		return nil, err
	}
	return m.data, nil
}

// fetchSrc fetches the archive at a URL to a spool in a temporary file, and
// says how that goes.
func fetchSrc(ctx context.Context, conf Config, url string, to *spool) error {
	if conf.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, conf.Timeout, fmt.Errorf("%w: the download took longer than %s", errTimeout, conf.Timeout))
		defer cancel()
	}
	f := fetcher{
		url:         url,
		retries:     conf.Retry,
		wait:        conf.RetryWait,
		connections: cmp.Or(conf.Connections, defaultConnections),
		limiter:     newLimiter(conf.MaxBandWidth),
		toDisk:      true,
		to:          to,
	}
	stop := f.progress.show()
	err := f.fetch(ctx)
	stop()
	if err == nil {
		log.Printf("Downloaded %s", f.progress.summary())
	}
	return err
}

// newLimiter returns a limiter for so many bytes a second, nil for 0. It has
// no credit at its start: the first byte counts like any other.
func newLimiter(bytesPerSecond uint64) *rate.Limiter {
	if bytesPerSecond == 0 {
		return nil
	}
	burst := int(max(1, min(bytesPerSecond/10, chunkSize)))
	l := rate.NewLimiter(rate.Limit(bytesPerSecond), burst)
	l.AllowN(time.Now(), burst)
	return l
}

// fetcher fetches one object to a spool.
type fetcher struct {
	url         string
	retries     int
	wait        time.Duration
	connections int
	limiter     *rate.Limiter // of all connections together; nil is none
	toDisk      bool          // the spool takes disk space
	to          *spool

	source    source
	validator string // of the object whose beginning the spool has
	progress  progress
}

// fetch fetches the whole object, and ends the spool with the outcome.
func (f *fetcher) fetch(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("fetch %s: %w", f.name(), err)
		}
		f.to.end(err)
	}()
	f.source, err = newSource(f.url)
	if err != nil {
		return err
	}
	defer func() { logError("close "+f.name(), f.source.close()) }()
	return f.retry(ctx, f.name(), f.attempt)
}

// name is what the log and errors call the object.
func (f *fetcher) name() string { return redact(f.url) }

// retry calls attempt until it succeeds, fails for good, or has been tried
// often enough. The name is what the log calls it.
func (f *fetcher) retry(ctx context.Context, name string, attempt func(context.Context) error) error {
	for n := 0; ; n++ {
		err := attempt(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.As(err, new(permanentError)) {
			return err
		}
		if n >= f.retries {
			if n > 0 {
				err = fmt.Errorf("%w (given up after %d attempts)", err, n+1)
			}
			return permanent(err)
		}
		wait := f.wait + rand.N(f.wait/4+1)
		if busy := (busyError{}); errors.As(err, &busy) {
			wait = max(wait, min(busy.after, maxRetryAfter))
		}
		f.progress.retries.Add(1)
		log.Printf("[WARN] fetch %s: attempt %d of %d failed: %v; next in %s", name, n+1, f.retries+1, err, wait.Round(time.Millisecond))
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// attempt fetches what the spool does not have yet. Where the object has
// changed since, or the server cannot continue it, it starts over, once.
func (f *fetcher) attempt(ctx context.Context) error {
	changed := false
	for {
		err := f.fetchRest(ctx)
		switch {
		case errors.Is(err, errChanged) && !changed:
			changed = true
			if err := f.restart(); err != nil {
				return err
			}
		case errors.Is(err, errChanged):
			return errChanged // not for good: a later attempt may find it at rest
		case errors.Is(err, errNoRanges):
			f.connections = 1
		default:
			return err
		}
	}
}

func (f *fetcher) fetchRest(ctx context.Context) error {
	offset := f.to.len()
	if offset > 0 && f.validator == "" {
		if err := f.restart(); err != nil {
			return err
		}
		offset = 0
	}
	t := f.begin(ctx)
	defer t.close()
	o, err := t.open(f.source, offset, -1, f.validator)
	if err != nil {
		return err
	}
	if o.offset != offset {
		if err := f.restart(); err != nil {
			return err
		}
		offset = o.offset
	}
	f.validator = o.validator
	f.progress.size.Store(o.size)
	if err := f.to.fits(o.size); err != nil {
		return err
	}
	if f.toDisk {
		if err := checkSpace(o.size - offset); err != nil {
			return err
		}
	}
	if f.connections > 1 && o.ranges && o.validator != "" && o.size-offset > parallelSize {
		return f.parallel(ctx, t, offset, o.size)
	}
	for {
		n, err := t.next()
		if n > 0 {
			if err := f.store(t.buf[:n], offset); err != nil {
				return err
			}
			offset += int64(n)
			f.to.arrived(offset)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if o.size >= 0 && offset != o.size {
		return fmt.Errorf("got %d of %d bytes: %w", offset, o.size, io.ErrUnexpectedEOF)
	}
	return nil
}

func (f *fetcher) restart() error {
	log.Printf("[WARN] fetch %s: starting over: the object changed, or its server cannot continue after %d bytes", f.name(), f.to.len())
	f.validator = ""
	f.progress.done.Store(0)
	return f.to.restart()
}

func (f *fetcher) store(p []byte, offset int64) error {
	f.progress.done.Add(int64(len(p)))
	f.progress.received.Add(int64(len(p)))
	return f.to.writeAt(p, offset)
}

// transfer is one connection's work: a request, and its body read with the
// bandwidth limit. It fails where no byte comes for stallTimeout.
type transfer struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	stall   *time.Timer
	limiter *rate.Limiter
	object  *object
	buf     []byte
}

func (f *fetcher) begin(ctx context.Context) *transfer {
	t := &transfer{limiter: f.limiter, buf: make([]byte, chunkSize)}
	if f.limiter != nil {
		t.buf = t.buf[:f.limiter.Burst()]
	}
	t.ctx, t.cancel = context.WithCancelCause(ctx)
	limit := stallTimeout
	t.stall = time.AfterFunc(limit, func() { t.cancel(fmt.Errorf("%w: no byte for %s", errStalled, limit)) })
	return t
}

func (t *transfer) open(s source, offset, length int64, validator string) (*object, error) {
	t.closeBody()
	t.stall.Reset(stallTimeout)
	o, err := s.open(t.ctx, offset, length, validator)
	t.stall.Stop()
	if err != nil {
		return nil, t.cause(err)
	}
	t.object = o
	return o, nil
}

// next reads some bytes into t.buf.
func (t *transfer) next() (int, error) {
	if t.ctx.Err() != nil {
		return 0, context.Cause(t.ctx)
	}
	t.stall.Reset(stallTimeout)
	n, err := t.object.body.Read(t.buf)
	t.stall.Stop()
	if t.limiter != nil && n > 0 {
		if err := t.limiter.WaitN(t.ctx, n); err != nil {
			if t.ctx.Err() == nil { // it would take beyond the deadline
				<-t.ctx.Done()
			}
			return 0, context.Cause(t.ctx)
		}
	}
	if err != nil && err != io.EOF {
		err = t.cause(err)
	}
	return n, err
}

// cause returns why the transfer was ended, where that is what err comes from.
func (t *transfer) cause(err error) error {
	if t.ctx.Err() != nil {
		return context.Cause(t.ctx)
	}
	return err
}

func (t *transfer) closeBody() {
	if t.object != nil {
		t.object.body.Close() // nothing of it is wanted any more
		t.object = nil
	}
}

func (t *transfer) close() {
	t.stall.Stop()
	t.cancel(nil)
	t.closeBody()
}

// sleep waits for d, or until ctx ends: then the error is its cause.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
