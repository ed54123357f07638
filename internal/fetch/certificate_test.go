package fetch

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The error of a certificate that is not valid says why, and is permanent.
func TestBadCertificate(t *testing.T) {
	t.Parallel()
	secure := quietServer(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "content") })
	secure.StartTLS()
	authority := x509.NewCertPool()
	authority.AddCert(secure.Certificate())
	expiry := secure.Certificate().NotAfter
	for _, test := range []struct {
		name, host string
		now        time.Time
		want       string
	}{
		{"good", "127.0.0.1", time.Now(), ""},
		{"expired", "127.0.0.1", expiry.AddDate(1, 0, 0), "x509: certificate has expired or is not yet valid: current time " + expiry.AddDate(1, 0, 0).Format("2006")},
		{"wrong host name", "localhost", time.Now(), "x509: certificate is valid for example.com, *.example.com, not localhost"},
	} {
		s, err := newSource(strings.Replace(secure.URL, "127.0.0.1", test.host, 1), Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		s.(*httpSource).transport.TLSClientConfig = &tls.Config{RootCAs: authority, Time: func() time.Time { return test.now }}
		o, err := s.open(t.Context(), 0, -1, "")
		if err == nil {
			o.body.Close()
		}
		if (err == nil) != (test.want == "") || err != nil && (!strings.Contains(err.Error(), test.want) || !errors.As(err, new(permanentError))) {
			t.Errorf("%s: error %v", test.name, err)
		}
	}
}
