package stretcher

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// s3Source is an object of Amazon S3, or of what speaks its protocol.
type s3Source struct {
	bucket, key string
	mu          sync.Mutex
	client      *s3.Client
}

func (s *s3Source) connect(ctx context.Context) (*s3.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	conf, err := config.LoadDefaultConfig(ctx,
		// Attempts are counted in one place, for all schemes.
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
		config.WithAppID("Stretcher-"+Version))
	if err != nil {
		return nil, fmt.Errorf("AWS configuration: %w", err)
	}
	if conf.Region == "" {
		return nil, permanent(errors.New("no AWS region: set AWS_REGION or AWS_DEFAULT_REGION"))
	}
	s.client = s3.NewFromConfig(conf, func(o *s3.Options) {
		// What runs at an endpoint of its own seldom has a name for each bucket.
		o.UsePathStyle = o.BaseEndpoint != nil
		// The checksum of the manifest is checked anyway.
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	})
	return s.client, nil
}

func (s *s3Source) open(ctx context.Context, offset, length int64, validator string) (*object, error) {
	client, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	in := &s3.GetObjectInput{Bucket: &s.bucket, Key: &s.key}
	ranged := offset > 0 || length >= 0
	if ranged {
		in.Range = aws.String(httpRange(offset, length))
	}
	if validator != "" {
		in.IfMatch = &validator
	}
	out, err := client.GetObject(ctx, in)
	if err != nil {
		return nil, s3Error(err)
	}
	o := &object{
		body:      out.Body,
		size:      aws.ToInt64(out.ContentLength),
		validator: aws.ToString(out.ETag),
		ranges:    true,
	}
	if out.ContentLength == nil {
		o.size = -1
	}
	if ranged && out.ContentRange != nil {
		o.offset, o.size, err = parseContentRange(*out.ContentRange)
		if err != nil {
			out.Body.Close()
			return nil, err
		}
	}
	return o, nil
}

func (s *s3Source) close() error { return nil }

// s3Error tells what another attempt may mend from what it cannot, and
// shortens what the SDK says.
func s3Error(err error) error {
	var api smithy.APIError
	code := ""
	if errors.As(err, &api) {
		code = api.ErrorCode()
	}
	var resp *smithyhttp.ResponseError
	if !errors.As(err, &resp) {
		return err // no answer at all
	}
	var at *awshttp.ResponseError
	request := ""
	if errors.As(err, &at) && at.ServiceRequestID() != "" {
		request = ", request " + at.ServiceRequestID()
	}
	status := resp.HTTPStatusCode()
	short := fmt.Errorf("%d %s%s", status, http.StatusText(status), request)
	if code != "" {
		short = fmt.Errorf("%s: %s (%d%s)", code, api.ErrorMessage(), status, request)
	}
	switch {
	case status == http.StatusPreconditionFailed, status == http.StatusRequestedRangeNotSatisfiable:
		return errChanged
	case code == "NoSuchBucket":
		return permanent(short)
	case code == "NoSuchKey", status == http.StatusNotFound, status == http.StatusRequestTimeout:
		return short
	case status == http.StatusTooManyRequests, status >= 500:
		return busyError{short, retryAfter(resp.Response.Header.Get("Retry-After"))}
	case code == "RequestTimeout", code == "SlowDown":
		return short
	}
	return permanent(short)
}
