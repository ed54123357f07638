package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"golang.org/x/net/http/httpproxy"
)

// badProxy stands for a proxy variable that is not valid, until a request would
// use it.
const badProxy = "http://bad-proxy.invalid"

// proxyFromEnvironment returns the Proxy function of a transport. It follows
// HTTP_PROXY, HTTPS_PROXY and NO_PROXY as http.ProxyFromEnvironment does, with
// one difference: where the variable for a request is not valid, the request
// fails. http.ProxyFromEnvironment would ignore the variable and connect
// directly, past the proxy that somebody wants to be used. The error names the
// variable, and not its value, which may hold a password.
func proxyFromEnvironment() func(*http.Request) (*url.URL, error) {
	c := httpproxy.FromEnvironment()
	bad := map[string]error{} // by the scheme of the request
	for scheme, value := range map[string]*string{"http": &c.HTTPProxy, "https": &c.HTTPSProxy} {
		if err := checkProxy(*value); err != nil {
			name := strings.ToLower(scheme) + "_proxy"
			if os.Getenv(name) == "" { // the one in lower case comes first
				name = strings.ToUpper(name)
			}
			bad[scheme] = permanent(fmt.Errorf("the environment variable %s is not a valid proxy: %w", name, err))
			*value = badProxy
		}
	}
	proxyFor := c.ProxyFunc()
	return func(req *http.Request) (*url.URL, error) {
		proxy, err := proxyFor(req.URL)
		if err != nil {
			return nil, permanent(err)
		}
		if proxy != nil && bad[req.URL.Scheme] != nil {
			return nil, bad[req.URL.Scheme]
		}
		return proxy, nil
	}
}

// checkProxy reports what is wrong with the value of a proxy variable, which is
// a URL, or a host with or without a port. "" is valid.
func checkProxy(value string) error {
	if value == "" {
		return nil
	}
	if !strings.Contains(value, "://") {
		value = "http://" + value
	}
	u, err := url.Parse(value)
	if err != nil {
		return errors.New("expected http://host:port, if necessary with user:password@ before the host, and special characters in these percent-encoded")
	}
	switch u.Scheme {
	case "http", "https", "socks5", "socks5h":
		return checkHost(u)
	}
	return errors.New("unknown scheme: expected http, https, socks5 or socks5h")
}

// newTransport returns a transport for requests to any server: that of net/http,
// with our proxies and without HTTP/2.
func newTransport() *http.Transport {
	return prepare(http.DefaultTransport.(*http.Transport).Clone())
}

// maxHeader is how large the header of an answer may be, in bytes. Errors may quote any
// part of it, and the 10 MiB of net/http would be too much for a log.
const maxHeader = 256 << 10

// prepare makes a transport use the proxies of the environment, and disables
// HTTP/2, which would send all ranges over one connection.
func prepare(t *http.Transport) *http.Transport {
	t.Proxy = proxyFromEnvironment()
	t.MaxResponseHeaderBytes = maxHeader
	t.Protocols = &http.Protocols{}
	t.Protocols.SetHTTP1(true)
	t.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
		if resp.StatusCode == http.StatusOK {
			return nil
		}
		return fmt.Errorf("proxy: %w", httpStatusError(errors.New(textReason(resp.Status)), resp.StatusCode, resp.Header))
	}
	if t.TLSClientConfig != nil {
		t.TLSClientConfig.NextProtos = nil // Clone copies "h2" in it
	}
	return t
}
