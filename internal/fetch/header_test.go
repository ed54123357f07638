package fetch

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
)

// Custom headers go to the server of the URL, also after a redirect there, and
// to no other.
func TestHeaders(t *testing.T) {
	t.Parallel()
	other := serve(t, []byte("other"), nil)
	f := serve(t, []byte("content"), func(_ int, w http.ResponseWriter, r *http.Request) bool {
		switch r.URL.Path {
		case "/same":
			http.Redirect(w, r, "/object", http.StatusFound)
		case "/other":
			http.Redirect(w, r, other.URL+"/object", http.StatusFound)
		case "/name":
			http.Redirect(w, r, strings.Replace(other.URL, "127.0.0.1", "localhost", 1)+"/object", http.StatusFound)
		default:
			return false
		}
		return true
	})
	o := Options{Headers: http.Header{"X-Token": {"s3cret", "second"}, "Authorization": {"Bearer s3cret"}, "User-Agent": {"mine"}, "Host": {"virtual.example"}}}
	for _, path := range []string{"/object", "/same", "/other", "/name"} {
		if _, _, err := download(t, o, f.URL+path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, r := range f.asked() {
		if got := strings.Join(r.Header["X-Token"], ","); got != "s3cret,second" || r.Host != "virtual.example" || r.Header.Get("Authorization") != "Bearer s3cret" || r.Header.Get("User-Agent") != "mine" {
			t.Errorf("%s: host %s, headers %v", r.URL, r.Host, r.Header)
		}
	}
	if n := len(other.asked()); n != 2 {
		t.Errorf("%d requests to the other host", n)
	}
	for _, r := range other.asked() {
		if r.Header.Get("X-Token") != "" || r.Header.Get("Authorization") != "" || r.Host == "virtual.example" || r.Header.Get("User-Agent") != testUserAgent {
			t.Errorf("the other host was sent host %s, headers %v", r.Host, r.Header)
		}
	}
}

// A server is the same one however its host and port are spelled. The user of the URL,
// which becomes the header Authorization, goes to https on the same host, too.
func TestRedirectedHeaders(t *testing.T) {
	t.Parallel()
	s := &httpSource{Options: Options{Headers: http.Header{"X-Token": {"s3cret"}}}}
	for _, test := range []struct{ from, to, want string }{
		{"https://h/a", "https://h/b", "X-Token Authorization"},
		{"https://h/a", "https://h:443/b", "X-Token Authorization"},
		{"https://H.example/a", "https://h.example/b", "X-Token Authorization"},
		{"http://h:80/a", "http://h/b", "X-Token Authorization"},
		{"http://H/a", "https://h/a", "Authorization"},
		{"https://h/a", "https://h:8443/a", ""},
		{"https://h/a", "https://a.h/a", ""},
		{"http://h:80/a", "https://h:443/a", ""},
	} {
		from, err := http.NewRequest(http.MethodGet, test.from, nil)
		if err != nil {
			t.Fatal(err)
		}
		to, err := http.NewRequest(http.MethodGet, test.to, nil)
		if err != nil {
			t.Fatal(err)
		}
		to.Header = http.Header{"X-Token": {"s3cret"}, "Authorization": {"Basic s3cret"}}
		if err := s.checkRedirect(to, []*http.Request{from}); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, name := range []string{"X-Token", "Authorization"} {
			if to.Header.Get(name) != "" {
				got = append(got, name)
			}
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s to %s: sent %s, want %s", test.from, test.to, got, test.want)
		}
	}
}

// What CheckHeaders accepts can be sent, and its errors do not show the value.
func FuzzCheckHeaders(f *testing.F) {
	for _, h := range [][2]string{{"X-Token", "s3cret"}, {"Host", "h:80"}, {"host", "a b"}, {"range", "x"}, {"X Y", "x"}, {"X", "a\r\nb"}, {"X-Ü", "x"}, {"X", "\xff"}} {
		f.Add(h[0], h[1])
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		h := http.Header{name: {"s3cret" + value}}
		if err := CheckHeaders(h); err != nil {
			if strings.Contains(err.Error(), "s3cret") && !strings.Contains(name, "s3cret") || strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("error %q", err)
			}
			return
		}
		req, err := http.NewRequest(http.MethodGet, "http://h.invalid/", nil)
		if err != nil {
			t.Fatal(err)
		}
		setHeaders(req, h)
		var sent strings.Builder
		if err := req.Write(&sent); err != nil {
			t.Fatal(err)
		}
		got, err := http.ReadRequest(bufio.NewReader(strings.NewReader(sent.String())))
		if err != nil {
			t.Fatalf("%v: %q", err, sent.String())
		}
		if http.CanonicalHeaderKey(name) == "Host" {
			return
		}
		if want := strings.Trim("s3cret"+value, " \t"); len(got.Header.Values(name)) != 1 || got.Header.Get(name) != want {
			t.Errorf("sent %q", sent.String())
		}
	})
}
