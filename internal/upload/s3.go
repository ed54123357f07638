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

// maxS3 is the size of an object that one request can store
// (https://docs.aws.amazon.com/AmazonS3/latest/userguide/upload-objects.html).
const maxS3 = 5 << 30

// s3Object is an object of Amazon S3, or of another server with its protocol.
type s3Object struct {
	place  *fetch.S3Place
	client *s3.Client
}

func newS3(ctx context.Context, place *fetch.S3Place, size int64) (object, error) {
	if size > maxS3 {
		return nil, errors.New("it is larger than 5 GiB, which S3 stores only in parts: upload archive, signature and manifest by aws s3 cp")
	}
	client, err := place.Client(ctx)
	if err != nil {
		return nil, err
	}
	return s3Object{place, s3.New(client.Options(), func(o *s3.Options) { o.Retryer = retry.NewStandard() })}, nil
}

func (s s3Object) size(ctx context.Context) (int64, error) {
	out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: s.place.Bucket(), Key: s.place.Key()})
	switch status(err) {
	case http.StatusNotFound:
		return 0, errMissing // or the bucket is, which put tells
	case http.StatusForbidden:
		// So it is for those who may not list the bucket.
		return 0, errUnknown
	}
	if err != nil {
		return 0, s.place.Error(err)
	}
	return aws.ToInt64(out.ContentLength), nil
}

func (s s3Object) put(ctx context.Context, f *os.File, size int64) error {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, size)); err != nil {
		return err
	}
	in := &s3.PutObjectInput{
		Bucket:         s.place.Bucket(),
		Key:            s.place.Key(),
		Body:           io.NewSectionReader(f, 0, size),
		ContentLength:  &size,
		ChecksumSHA256: aws.String(base64.StdEncoding.EncodeToString(sum.Sum(nil))),
		IfNoneMatch:    aws.String("*"),
	}
	_, err := s.client.PutObject(ctx, in)
	if status(err) == http.StatusNotImplemented {
		// This service does not know the condition. Ask again what it would have.
		if _, err := s.size(ctx); !errors.Is(err, errMissing) {
			return fmt.Errorf("the service does not support If-None-Match, and it is not certain that nothing is stored there: %w", err)
		}
		in.IfNoneMatch, in.Body = nil, io.NewSectionReader(f, 0, size)
		_, err = s.client.PutObject(ctx, in)
	}
	if status(err) == http.StatusPreconditionFailed {
		return errExists
	}
	if err != nil {
		return s.place.Error(err)
	}
	return nil
}

// status returns the status of the answer that an error stands for, 0 for none.
func status(err error) int {
	if resp, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		return resp.HTTPStatusCode()
	}
	return 0
}
