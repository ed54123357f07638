package fetch

import (
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
