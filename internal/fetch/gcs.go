package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/auth/credentials"

	"github.com/fujiwara/stretcher/internal/redact"
)

// Scopes of OAuth 2.0 (https://cloud.google.com/storage/docs/oauth-scopes).
const (
	gcsReadOnly  = "https://www.googleapis.com/auth/devstorage.read_only"
	gcsReadWrite = "https://www.googleapis.com/auth/devstorage.read_write"
)

// GCSClient sends requests to Google Cloud Storage, or to the emulator that
// STORAGE_EMULATOR_HOST names. It does not use the vendor's client, which would more
// than double the size of this program and its work at start-up, and makes retries of
// its own. All that is needed here are single requests.
type GCSClient struct {
	client    *http.Client
	server    url.URL
	universe  string            // the domain of Google's services
	creds     *auth.Credentials // nil for an emulator
	userAgent string
}

func newGCSClient(transport http.RoundTripper, scope, userAgent string) (*GCSClient, error) {
	c := &GCSClient{
		client: &http.Client{
			Transport: transport,
			// GCS does not redirect. The credentials would go wherever a redirect leads.
			CheckRedirect: noRedirect,
		},
		userAgent: userAgent,
	}
	if emulator := os.Getenv("STORAGE_EMULATOR_HOST"); emulator != "" {
		if !strings.Contains(emulator, "://") {
			emulator = "http://" + emulator
		}
		u, err := url.Parse(emulator)
		if err != nil {
			return nil, permanent(errors.New("STORAGE_EMULATOR_HOST is not a host or a URL"))
		}
		c.server = url.URL{Scheme: u.Scheme, Host: u.Host}
		return c, nil
	}
	c.universe = cmp.Or(os.Getenv("GOOGLE_CLOUD_UNIVERSE_DOMAIN"), "googleapis.com")
	c.server = url.URL{Scheme: "https", Host: "storage." + c.universe}
	var err error
	c.creds, err = credentials.DetectDefault(&credentials.DetectOptions{
		Scopes: []string{scope},
		Client: &http.Client{Transport: transport}, // of the server of tokens
	})
	if err != nil {
		return nil, permanent(fmt.Errorf("GCP credentials: %w (set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account's key)", err))
	}
	return c, nil
}

// URL returns the URL of a path on the server, whose segments it escapes.
func (c *GCSClient) URL(query url.Values, segments ...string) *url.URL {
	u := c.server
	u.Path = "/" + strings.Join(segments, "/")
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	u.RawPath = "/" + strings.Join(segments, "/")
	u.RawQuery = query.Encode()
	return &u
}

// Do sends a request with the credentials, unless it goes to another server.
func (c *GCSClient) Do(req *http.Request) (*http.Response, error) {
	req.Header.Set("User-Agent", c.userAgent)
	if c.creds != nil && req.URL.Scheme == c.server.Scheme && req.URL.Host == c.server.Host {
		token, err := c.token(req.Context())
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", cmp.Or(token.Type, "Bearer")+" "+token.Value)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, withoutURL(err)
	}
	return resp, nil
}

func (c *GCSClient) token(ctx context.Context) (*auth.Token, error) {
	token, err := c.creds.Token(ctx)
	if refused, ok := errors.AsType[*auth.Error](err); ok && refused.Response != nil {
		status := withReason(errors.New(textReason(refused.Response.Status)), reason(refused.Response.Header.Get("Content-Type"), refused.Body))
		return nil, fmt.Errorf("GCP credentials: %w", httpStatusError(status, refused.Response.StatusCode, refused.Response.Header))
	}
	if err != nil {
		return nil, fmt.Errorf("GCP credentials: %w", withoutURL(err))
	}
	// The token of one universe must not be sent to another one. A machine at Google
	// does not know its universe, but can reach no other.
	if token.MetadataString("auth.google.tokenSource") == "compute-metadata" {
		return token, nil
	}
	universe, err := c.creds.UniverseDomain(ctx)
	if err == nil && universe != c.universe {
		err = permanent(fmt.Errorf("GCP credentials: they are for %s, not for %s: set GOOGLE_CLOUD_UNIVERSE_DOMAIN", redact.Printable(universe), redact.Printable(c.universe)))
	}
	return token, err
}

// StatusError returns the error of an answer other than 2xx. It closes its body.
func (c *GCSClient) StatusError(resp *http.Response) error {
	status := fmt.Errorf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	return httpStatusError(withReason(status, readReason(resp)), resp.StatusCode, resp.Header)
}
