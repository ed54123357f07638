package fetch

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/fujiwara/stretcher/internal/redact"
)

// Place is where an object of the scheme s3, gs or file is stored. With it, a program
// that writes objects reads URLs as those that fetch them do, and has a client with the
// same credentials. Exactly one of its fields is set.
type Place struct {
	S3   *S3Place
	GCS  *GCSPlace
	Path string // of a file
}

// NewPlace returns the place that a URL names, without asking its server for anything.
// A URL that is fetched, but never written to, is an error.
func NewPlace(url string, o Options) (Place, error) {
	s, err := newSource(url, o.withDefaults())
	if err != nil {
		return Place{}, err
	}
	switch s := s.(type) {
	case *s3Source:
		return Place{S3: &S3Place{s}}, nil
	case *gcsSource:
		s.scope = gcsReadWrite
		return Place{GCS: &GCSPlace{s, o}}, nil
	case fileSource:
		return Place{Path: s.path}, nil
	}
	return Place{}, fmt.Errorf("%s: objects of this scheme can only be fetched, not written", redact.Printable(redact.URL(url)))
}

// S3Place is an object of Amazon S3, or of another server with its protocol.
type S3Place struct{ source *s3Source }

// Bucket returns the name of the bucket.
func (p *S3Place) Bucket() *string { return &p.source.bucket }

// Key returns the key of the object.
func (p *S3Place) Key() *string { return &p.source.key }

// Client returns a client, which does not retry. It fails without credentials.
func (p *S3Place) Client(ctx context.Context) (*s3.Client, error) {
	client, err := p.source.connect(ctx)
	if err != nil {
		return nil, err
	}
	return client, checkCredentials(ctx, client)
}

// Error returns a short form of an error of the client.
func (p *S3Place) Error(err error) error { return s3Error(err, false) }

// GCSPlace is an object of Google Cloud Storage.
type GCSPlace struct {
	source  *gcsSource
	options Options
}

// Bucket returns the name of the bucket.
func (p *GCSPlace) Bucket() string { return p.source.bucket }

// Key returns the key of the object.
func (p *GCSPlace) Key() string { return p.source.key }

// Client returns a client that may write, and does not retry. It fails without
// credentials.
func (p *GCSPlace) Client() (*GCSClient, error) { return p.source.connect() }

// Retry calls attempt until it succeeds, or fails for good, as far as the options say.
func (p *GCSPlace) Retry(ctx context.Context, attempt func(context.Context) error) error {
	name := redact.URL("gs://" + p.source.bucket + "/" + p.source.key)
	return p.options.retry(ctx, "Upload to "+name, attempt, p.source.closeIdle)
}
