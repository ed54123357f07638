package upload

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/fujiwara/stretcher/internal/fetch"
)

// Objects of more than partSize bytes are stored in parts, each of which can be retried
// alone. S3 takes at most 10,000 parts
// (https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html), so those of
// objects above 156 GiB are larger.
const (
	partSize = 16 << 20
	maxParts = 10_000
)

// s3Object is an object of Amazon S3, or of another server with its protocol.
type s3Object struct {
	place  *fetch.S3Place
	client *s3.Client
}

func newS3(ctx context.Context, place *fetch.S3Place) (object, error) {
	client, err := place.Client(ctx)
	if err != nil {
		return nil, err
	}
	return s3Object{place, s3.New(client.Options(), func(o *s3.Options) {
		o.Retryer = retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts = attempts })
	})}, nil
}

func (s s3Object) size(ctx context.Context) (int64, error) {
	out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: s.place.Bucket(), Key: s.place.Key()})
	switch status(err) {
	case http.StatusNotFound:
		return 0, errMissing // or the bucket is, which put tells
	case http.StatusForbidden:
		// S3 answers so for a missing object, too, unless the credentials may list the bucket.
		return 0, errUnknown
	}
	if err != nil {
		return 0, s.place.Error(err)
	}
	return aws.ToInt64(out.ContentLength), nil
}

func (s s3Object) put(ctx context.Context, f *os.File, size int64, sent func(int64)) error {
	store := s.putWhole
	if size > partSize {
		store = s.putParts
	}
	err := store(ctx, f, size, sent, aws.String("*"))
	if status(err) == http.StatusNotImplemented {
		// This service does not know the condition: find out what it would have.
		_, err = s.size(ctx)
		if err == nil {
			return errExists
		}
		if !errors.Is(err, errMissing) {
			return fmt.Errorf("the service does not support If-None-Match, and whether something is stored there is not known: %w", err)
		}
		err = store(ctx, f, size, sent, nil)
	}
	if status(err) == http.StatusPreconditionFailed {
		return errExists
	}
	return err
}

// putWhole stores the object by one request. It fails if the object exists, unless
// absent is nil.
func (s s3Object) putWhole(ctx context.Context, f *os.File, size int64, sent func(int64), absent *string) error {
	sum, err := base64Sum(io.NewSectionReader(f, 0, size))
	if err != nil {
		return err
	}
	_, err = s.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket:         s.place.Bucket(),
		Key:            s.place.Key(),
		Body:           io.NewSectionReader(f, 0, size),
		ContentLength:  &size,
		ChecksumSHA256: sum,
		IfNoneMatch:    absent,
	})
	if err != nil {
		return s.error(err)
	}
	sent(size)
	return nil
}

// error is the short form of an error of the client, with its status.
func (s s3Object) error(err error) error {
	return &s3Error{s.place.Error(err), status(err)}
}

type s3Error struct {
	error
	status int
}

func (e *s3Error) Unwrap() error { return e.error }

// base64Sum returns the SHA-256 of what is read, as S3 has it in its headers.
func base64Sum(r io.Reader) (*string, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		return nil, err
	}
	return aws.String(base64.StdEncoding.EncodeToString(sum.Sum(nil))), nil
}

// status returns the status of the answer that an error stands for, 0 for none.
func status(err error) int {
	if e, ok := errors.AsType[*s3Error](err); ok {
		return e.status
	}
	if resp, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		return resp.HTTPStatusCode()
	}
	return 0
}
