package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
	smithymiddleware "github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/fujiwara/stretcher/internal/allowlist"
)

// s3Source is an object of Amazon S3, or of another server with its protocol.
type s3Source struct {
	bucket, key string
	options     Options
	mu          sync.Mutex // of the fields below, which connect sets
	client      *s3.Client
	transport   *http.Transport
}

// connect returns the client, which it makes at the first call.
func (s *s3Source) connect(ctx context.Context) (*s3.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	conf, err := config.LoadDefaultConfig(ctx,
		// Of the services that the credentials come from, too.
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.Proxy = proxyFromEnvironment() })),
		// The SDK would write to stderr itself, in a form of its own.
		config.WithLogger(logging.LoggerFunc(func(level logging.Classification, format string, args ...any) {
			s.options.logf("[%s] Fetch s3://%s/%s: %s", level, s.bucket, s.key, fmt.Sprintf(format, args...))
		})),
		// Retries are made in one place for all schemes, by fetcher.retry.
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
		config.WithAPIOptions([]func(*smithymiddleware.Stack) error{middleware.AddUserAgentKeyValue("Stretcher", s.options.Version)}))
	if err != nil {
		return nil, permanent(fmt.Errorf("AWS configuration: %w", err))
	}
	if conf.Region == "" {
		return nil, permanent(errors.New("no AWS region: set AWS_REGION or AWS_DEFAULT_REGION"))
	}
	// This transport of the SDK trusts the certificates in AWS_CA_BUNDLE.
	s.transport = prepare(conf.HTTPClient.(*awshttp.BuildableClient).GetTransport())
	s.client = s3.NewFromConfig(conf, func(o *s3.Options) {
		o.HTTPClient = &http.Client{
			Transport: boundedErrors{s.transport},
			// S3 redirects to another region, for which the signature of the
			// request would not be valid.
			CheckRedirect: noRedirect,
		}
		// Servers with an endpoint of their own seldom have a host name for
		// each bucket.
		o.UsePathStyle = o.BaseEndpoint != nil
		// The checksum of the manifest is verified in any case.
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	})
	return s.client, nil
}

// checkCredentials returns an error if there are no credentials. A request would do
// this too, but its error would not show whether S3 or the provider of the credentials
// has failed.
func checkCredentials(ctx context.Context, client *s3.Client) error {
	if _, err := client.Options().Credentials.Retrieve(ctx); err != nil {
		return fmt.Errorf("AWS credentials: %w (set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the instance a role)", err)
	}
	return nil
}

func (s *s3Source) open(ctx context.Context, offset, length int64, validator string) (*object, error) {
	client, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkCredentials(ctx, client); err != nil {
		return nil, err
	}
	in := &s3.GetObjectInput{Bucket: &s.bucket, Key: &s.key}
	ranged := offset > 0 || length >= 0
	if ranged {
		in.Range = aws.String(httpRange(offset, length))
	}
	if strings.HasPrefix(validator, `"`) {
		// Where the validator is a date, fetcher.open notices a change.
		in.IfMatch = &validator
	}
	out, err := client.GetObject(ctx, in)
	if err != nil {
		return nil, s3Error(err, ranged || in.IfMatch != nil)
	}
	o := &object{body: out.Body, size: -1, ranges: true}
	if out.ContentLength != nil {
		o.size = *out.ContentLength
	}
	partial := out.ContentRange != nil
	if resp, ok := middleware.GetRawResponse(out.ResultMetadata).(*smithyhttp.Response); ok {
		o.validator = httpValidator(resp.Header) // the ETag, or else the date
		o.encoding = httpEncoding(resp.Header)
		partial = resp.StatusCode == http.StatusPartialContent
	}
	if partial {
		o.offset, o.size, err = parseContentRange(aws.ToString(out.ContentRange))
		if err != nil {
			out.Body.Close()
			return nil, err
		}
	}
	return o, nil
}

func (s *s3Source) allowed(l allowlist.List) error { return l.Object("s3", s.bucket, s.key) }

func (s *s3Source) closeIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.transport != nil {
		s.transport.CloseIdleConnections()
	}
}

func (s *s3Source) close() error {
	s.closeIdle()
	return nil
}

// s3Error returns a short form of an error of the SDK, permanent unless another
// attempt may succeed. conditional says that the request was for a part of the
// object, or for an object that has not changed.
func s3Error(err error, conditional bool) error {
	resp, ok := errors.AsType[*awshttp.ResponseError](err)
	if !ok || resp.HTTPStatusCode() == 0 {
		return withoutURL(err) // the server has not answered
	}
	status, code := resp.HTTPStatusCode(), ""
	api, ok := errors.AsType[smithy.APIError](err)
	if ok {
		code = api.ErrorCode()
	}
	var short error
	if text := http.StatusText(status); !ok || api.ErrorMessage() == text {
		// The body has not the form of S3: a proxy has answered.
		short = withReason(fmt.Errorf("%d %s", status, text), readReason(resp.Response.Response))
	} else {
		short = fmt.Errorf("%s: %s (%d)", textReason(code), textReason(api.ErrorMessage()), status)
	}
	if id := resp.ServiceRequestID(); id != "" {
		short = fmt.Errorf("%w, request %s", short, textReason(id))
	}
	if region := resp.Response.Header.Get("X-Amz-Bucket-Region"); region != "" && (status == http.StatusMovedPermanently || code == "AuthorizationHeaderMalformed") {
		short = fmt.Errorf("%w (set AWS_REGION to %s, where the bucket is)", short, textReason(region))
	}
	switch {
	case conditional && (status == http.StatusPreconditionFailed || status == http.StatusRequestedRangeNotSatisfiable):
		return errChanged
	case code == "RequestTimeout": // has the status 400
		return short
	case status == http.StatusNotFound && code != "" && code != "NoSuchKey" && code != "NotFound": // NoSuchBucket
		return permanent(short)
	}
	return httpStatusError(short, status, resp.Response.Header)
}
