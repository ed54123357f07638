package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fujiwara/stretcher/internal/allowlist"
	"github.com/fujiwara/stretcher/internal/redact"
)

// defaultConnections is the number of connections for a large object.
const defaultConnections = 4

// Options says how an object is downloaded. The zero value makes one attempt
// without any limit. The context limits how long that may take; a transfer that
// receives nothing for a minute fails in any case.
type Options struct {
	// Retries is how often a failed download is tried again. 0 is never.
	Retries int
	// RetryWait is the pause before each retry. Up to a quarter of it is added
	// at random, and a server may ask for more, up to 10 minutes (Retry-After,
	// RFC 9110, section 10.2.3).
	RetryWait time.Duration
	// Connections is how many connections Download uses for an object of more
	// than 16 MiB. 0 is the default, 4.
	Connections int
	// MaxBandwidth limits Download, in bytes a second over all connections.
	// 0 is no limit.
	MaxBandwidth uint64
	// Headers are added to requests of the schemes http and https, but not after a
	// redirect to another scheme, host or port. CheckHeaders must accept them.
	Headers http.Header
	// Allow are the prefixes of the URLs that may be fetched or redirected to, as
	// allowlist.Parse takes them. nil allows everything.
	Allow []string
	// Version is sent to servers, in the User-Agent "Stretcher/VERSION".
	Version string
	// Debug logs how long each step of every HTTP request took, for http and
	// https.
	Debug bool
	// Received, if it is not nil, is increased by the number of bytes of the object
	// that arrive, while they do. It counts those of failed attempts too.
	Received *atomic.Int64

	// The rest is for tests. 0 and nil stand for the default.

	parallelSize  int64         // objects of more bytes are fetched over several connections; 16 MiB
	partSize      int64         // how many bytes a connection asks for at a time; 8 MiB
	stallTimeout  time.Duration // how long a transfer may receive nothing; a minute
	attemptTime   time.Duration // how long one attempt at a manifest may take; 60 seconds
	slowLeast     time.Duration // a part that takes no longer than this is never slow; 10 seconds
	progressEvery time.Duration // how often the progress is logged; 10 seconds
	logger        *log.Logger   // log.Default()
}

// withDefaults returns o with the defaults in place of zeros.
func (o Options) withDefaults() Options {
	o.Connections = cmp.Or(o.Connections, defaultConnections)
	o.parallelSize = cmp.Or(o.parallelSize, 16<<20)
	o.partSize = cmp.Or(o.partSize, 8<<20)
	o.stallTimeout = cmp.Or(o.stallTimeout, 60*time.Second)
	o.attemptTime = cmp.Or(o.attemptTime, 60*time.Second)
	o.slowLeast = cmp.Or(o.slowLeast, 10*time.Second)
	return o
}

// userAgent returns the value of the header User-Agent.
func (o Options) userAgent() string { return "Stretcher/" + o.Version }

// logf writes a line to the log, without the secrets of URLs.
func (o Options) logf(format string, args ...any) {
	cmp.Or(o.logger, log.Default()).Output(2, redact.Text(fmt.Sprintf(format, args...)))
}

// CheckURL reports what is wrong with a URL: its syntax, an unknown scheme, a part
// that its scheme needs, such as the key of an S3 object, or that it is not under
// one of the prefixes in allow, as in Options. It makes no request. The error
// contains the URL without its secrets.
func CheckURL(url string, allow []string) error {
	_, err := newSource(url, Options{Allow: allow})
	return err
}

// CheckAllow reports the first prefix that is not valid as one of Options.Allow. The
// error does not contain its secrets.
func CheckAllow(prefixes []string) error {
	_, err := allowlist.Parse(prefixes)
	return err
}

// Download writes the object at url to the beginning of the file to, which has
// to be empty and in the directory for temporary files. It logs the progress,
// or shows it where stderr is a terminal, and logs a summary at the end.
//
// While bytes arrive, it calls each reader in a goroutine of its own with the
// bytes of the object from the first one on. At the end of the object, Read
// returns io.EOF. When the object has to be started over, Read fails and the
// reader is called again, with the new bytes from the first one on; this may
// happen also after it has returned nil. The first reader leads: the others may
// not read past it until it has returned. It should be the slowest one, which
// then never has to share the CPU with readers that are ahead of it. A reader
// must not hold on to its io.Reader.
//
// Download returns when all readers have returned. When a reader returns an
// error, the download is cancelled, Read fails with that error for the other
// readers, and Download returns it as it is.
// When the download itself fails, Read fails with the same error, and Download
// returns "fetch URL: ..." whatever the readers return. That error wraps the
// cause of ctx where ctx has ended, and syscall.ENOSPC where the disk is full.
// A URL that CheckURL rejects gives the error of CheckURL.
//
// The bytes are those that the server has stored; no Content-Encoding is
// decoded. The hint is for the error of a wrong checksum, to which it is to be
// appended: it begins with a colon, and says how a Content-Encoding can be the
// reason. It is "" if the server sent none, and if the download itself fails.
func Download(ctx context.Context, url string, to *os.File, o Options, readers ...func(io.Reader) error) (hint string, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	spool := newSpool(to, 0)
	var readErr error
	var reading sync.WaitGroup
	for i, reader := range readers {
		reading.Go(func() {
			leads := i == 0
			if err := spool.read(leads, reader); err != nil { // in one of the goroutines at most
				readErr = err
				cancel(readerError{err})
			}
		})
	}
	hint, err = downloadTo(ctx, url, spool, o)
	reading.Wait()
	if failed, ok := errors.AsType[readerError](err); ok {
		return hint, failed.error
	}
	if err != nil {
		return "", err
	}
	return hint, readErr
}

// readerError is the error of a reader, as the cause of the cancellation of its
// download.
type readerError struct{ error }

// downloadTo downloads to a spool, and shows the progress.
// It returns the hint of Download.
func downloadTo(ctx context.Context, url string, spool *spool, o Options) (hint string, err error) {
	f := newFetcher(url, spool, o)
	stop := f.progress.show(f.Options)
	err = f.fetch(ctx)
	stop()
	if err == nil {
		f.logf("Downloaded %s", f.progress.summary())
	}
	return f.encoding.hint(), err
}
