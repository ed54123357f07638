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
	// chunkSize is what is read and stored at a time.
	chunkSize = 256 << 10
	// maxRetryAfter bounds what a server may ask us to wait.
	maxRetryAfter = 10 * time.Minute
)

// These are variables for the tests.
var (
	// parallelSize is from where on several connections are worth it.
	parallelSize int64 = 16 << 20
	// partSize is what a connection asks for at a time.
	partSize int64 = 8 << 20
	// stallTimeout is how long a transfer may go without a byte.
	stallTimeout = 60 * time.Second
)

// source is an object at a URL of some scheme.
type source interface {
	// open returns the object's bytes from offset on, length of them, or all
	// the rest where length is negative. Where validator is not "" and no
	// longer that of the object, it may fail with errChanged, or return the
	// object from its beginning.
	open(ctx context.Context, offset, length int64, validator string) (*object, error)
	// dropIdle closes connections that nothing uses. On another one, net/http
	// would repeat a request that fails there, and nobody would know.
	dropIdle()
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
	var s source
	var err error
	switch scheme = strings.ToLower(scheme); scheme {
	case "file":
		s, err = newFileSource(rest)
	case "http", "https":
		s, err = newHTTPSource(rawURL)
	case "s3", "gs":
		bucket, key, _ := strings.Cut(rest, "/")
		switch {
		case bucket == "" || key == "":
			err = fmt.Errorf("expected a bucket and a key, as in %s://bucket/key", scheme)
		case scheme == "s3":
			s = &s3Source{bucket: bucket, key: unescape(key)}
		default:
			s = &gcsSource{bucket: bucket, key: unescape(key)}
		}
	default:
		err = fmt.Errorf("unknown scheme %q: expected s3, gs, http, https or file", scheme)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", redactURL(rawURL), err)
	}
	return s, nil
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
	defer func() { f.to.end(err) }()
	f.source, err = newSource(f.url)
	if err != nil {
		return err
	}
	defer func() { logError("close "+f.name(), f.source.close()) }()
	if err := f.retry(ctx, f.name(), f.attempt); err != nil {
		return safeError{fmt.Errorf("fetch %s: %w", f.name(), err)}
	}
	return nil
}

// name is what the log and errors call the object.
func (f *fetcher) name() string { return redactURL(f.url) }

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
		f.source.dropIdle()
	}
}

// attempt fetches what the spool does not have yet. Where the object has
// changed since, it starts over, once.
func (f *fetcher) attempt(ctx context.Context) error {
	changed := false
	for {
		err := f.fetchRest(ctx)
		switch {
		case errors.Is(err, errChanged) && !changed:
			changed = true
			// Or the machines behind one name differ in their validators:
			// over one connection, only one of them is asked.
			f.connections = 1
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

// fetchRest fetches what the spool does not have yet, or all where the server
// cannot go on from there.
func (f *fetcher) fetchRest(ctx context.Context) error {
	offset := f.to.len()
	if offset > 0 && f.validator == "" {
		if err := f.restart(); err != nil {
			return err
		}
		offset = 0
	}
	t, err := f.open(ctx, offset, -1)
	if err != nil {
		return err
	}
	defer t.close()
	if t.offset != offset {
		if err := f.restart(); err != nil {
			return err
		}
		offset = 0
	}
	size := t.object.size
	f.validator = t.object.validator
	f.progress.size.Store(size)
	f.progress.done.Store(offset)
	if err := f.to.fits(size); err != nil {
		return err
	}
	if f.toDisk {
		if err := checkSpace(size - offset); err != nil {
			return err
		}
	}
	if f.connections > 1 && t.object.ranges && f.validator != "" && size-offset > parallelSize {
		return f.parallel(ctx, t, size)
	}
	for {
		n, err := t.next(chunkSize)
		if n > 0 {
			if err := f.store(t.buf[:n], t.offset-int64(n)); err != nil {
				return err
			}
			f.to.arrived(t.offset)
		}
		if err == io.EOF && (size < 0 || t.offset == size) {
			return nil
		}
		if err != nil {
			return after(err, t.offset, size)
		}
	}
}

// after says of an error in the middle of an object where that was.
func after(err error, offset, size int64) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if size < 0 {
		return fmt.Errorf("after %d bytes: %w", offset, err)
	}
	return fmt.Errorf("after %d of %d bytes: %w", offset, size, err)
}

func (f *fetcher) restart() error {
	log.Printf("[WARN] fetch %s: starting over: the object changed, or its server cannot continue after %d bytes", f.name(), f.to.len())
	f.validator = ""
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
	offset  int64 // in the object, of what comes next
	rest    bool  // its body goes on to the end of the object
	buf     []byte
}

// open opens the object at offset; length is as of a source. The transfer may
// be at offset 0 instead. It is of the object whose beginning the spool has,
// unless it is at 0.
func (f *fetcher) open(ctx context.Context, offset, length int64) (*transfer, error) {
	t := &transfer{limiter: f.limiter, rest: length < 0, buf: make([]byte, chunkSize)}
	if f.limiter != nil {
		t.buf = t.buf[:f.limiter.Burst()]
	}
	t.ctx, t.cancel = context.WithCancelCause(ctx)
	limit := stallTimeout
	t.stall = time.AfterFunc(limit, func() { t.cancel(fmt.Errorf("%w: no byte for %s", errStalled, limit)) })
	o, err := f.source.open(t.ctx, offset, length, f.validator)
	t.stall.Stop()
	if err != nil {
		err = t.cause(err)
		t.close()
		return nil, err
	}
	t.object = o
	t.offset = o.offset
	switch size := f.progress.size.Load(); {
	case o.offset == 0:
	case o.offset != offset:
		err = fmt.Errorf("asked for the bytes from %d on, got those from %d on", offset, o.offset)
	case o.validator != f.validator, o.size >= 0 && size >= 0 && o.size != size:
		err = errChanged
	case o.size < 0:
		o.size = size
	}
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// next reads some bytes into t.buf, as many as wanted at most.
func (t *transfer) next(wanted int64) (int, error) {
	if t.ctx.Err() != nil {
		return 0, context.Cause(t.ctx)
	}
	t.stall.Reset(stallTimeout)
	n, err := t.object.body.Read(t.buf[:min(wanted, int64(len(t.buf)))])
	t.stall.Stop()
	if t.limiter != nil && n > 0 {
		if err := t.limiter.WaitN(t.ctx, n); err != nil {
			if t.ctx.Err() == nil { // it would take beyond the deadline
				<-t.ctx.Done()
			}
			return 0, context.Cause(t.ctx)
		}
	}
	t.offset += int64(n)
	if err != nil && err != io.EOF {
		err = t.cause(withoutURL(err))
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

// close ends the transfer. A nil one, and a second call, are no-ops.
func (t *transfer) close() {
	if t == nil {
		return
	}
	t.stall.Stop()
	t.cancel(nil)
	if t.object != nil {
		t.object.body.Close() // nothing of it is wanted any more
		t.object = nil
	}
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
