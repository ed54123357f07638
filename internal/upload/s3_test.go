package upload

import (
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fujiwara/stretcher/internal/fetch"
)

// fakeS3 is a server with some objects, and with what services do differently.
type fakeS3 struct {
	mu            sync.Mutex
	objects       map[string]string
	denyHead      bool // for a missing object, as S3 does for those who may not list
	denyRead      bool // for every object
	noConditions  bool // an error for If-None-Match
	loseNext      bool // the next object is stored, but the answer is an error
	appearsBefore string
	puts          int
}

func (s *fakeS3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	content, exists := s.objects[r.URL.Path]
	switch {
	case r.Method == http.MethodHead && (s.denyHead && !exists || s.denyRead):
		w.WriteHeader(http.StatusForbidden)
	case r.Method == http.MethodPut:
		s.puts++
		body, err := io.ReadAll(r.Body)
		sum := sha256.Sum256(body)
		if s.appearsBefore != "" {
			content, exists = s.appearsBefore, true
			s.objects[r.URL.Path] = content
		}
		switch condition := r.Header.Get("If-None-Match"); {
		case err != nil || r.Header.Get("X-Amz-Checksum-Sha256") != base64.StdEncoding.EncodeToString(sum[:]):
			w.WriteHeader(http.StatusBadRequest)
		case condition == "*" && s.noConditions:
			w.WriteHeader(http.StatusNotImplemented)
		case condition == "*" && exists:
			w.WriteHeader(http.StatusPreconditionFailed)
		default:
			s.objects[r.URL.Path] = string(body)
			if s.loseNext {
				s.loseNext = false
				w.WriteHeader(http.StatusInternalServerError)
			}
		}
	case !exists:
		w.WriteHeader(http.StatusNotFound)
	default:
		http.ServeContent(w, r, "", time.Unix(1700000000, 0), strings.NewReader(content))
	}
}

func TestS3(t *testing.T) {
	for name, value := range map[string]string{"AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "s3cret"} {
		t.Setenv(name, value)
	}
	const path = "/bucket/app/app.tar.zst"
	from := filepath.Join(t.TempDir(), "app.tar.zst")
	if err := os.WriteFile(from, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := "something else is stored there already"
	for _, test := range []struct {
		name   string
		server *fakeS3
		before string
		want   string // in the error, or else the report
		puts   int
	}{
		{"new", &fakeS3{}, "", "Uploaded s3://bucket/app/app.tar.zst", 1},
		{"same", &fakeS3{}, "content", "Stored already: s3://bucket/app/app.tar.zst", 0},
		{"same size", &fakeS3{}, "contend", other, 0},
		{"other size", &fakeS3{}, "contents", other, 0},
		{"not listable", &fakeS3{denyHead: true}, "", "Uploaded ", 1},
		{"without conditions", &fakeS3{noConditions: true}, "", "Uploaded ", 2},
		{"neither", &fakeS3{noConditions: true, denyHead: true}, "", "does not support If-None-Match", 1},
		{"without conditions, meanwhile another", &fakeS3{noConditions: true, appearsBefore: "contend"}, "", other, 1},
		{"not readable", &fakeS3{denyRead: true}, "", "Uploaded ", 1},
		{"not readable, the same", &fakeS3{denyRead: true}, "content", "something is stored there already, and these credentials may not read it, so that it cannot be compared", 1},
		{"meanwhile the same", &fakeS3{appearsBefore: "content"}, "", "Uploaded ", 1},
		{"meanwhile another", &fakeS3{appearsBefore: "contend"}, "", other, 1},
		{"lost answer", &fakeS3{loseNext: true}, "", "Uploaded ", 2},
	} {
		test.server.objects = map[string]string{}
		if test.before != "" {
			test.server.objects[path] = test.before
		}
		s := httptest.NewServer(test.server)
		t.Setenv("AWS_ENDPOINT_URL_S3", s.URL)
		got := ""
		err := Files(t.Context(), "s3://bucket/app", []File{{Path: from}}, fetch.Options{}, func(line string) { got = line })
		if err != nil {
			got = err.Error()
		}
		s.Close()
		if !strings.Contains(got, test.want) || test.server.puts != test.puts {
			t.Errorf("%s: %s, after %d requests", test.name, got, test.server.puts)
		}
		if stored := test.server.objects[path]; err == nil && stored != "content" || test.before != "" && stored != test.before {
			t.Errorf("%s: %q is stored", test.name, stored)
		}
	}
}
