package upload

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/fujiwara/stretcher/internal/fetch"
)

// gcsChunk is how much one request stores, in bytes. It has to be a multiple of 256 KiB.
const gcsChunk = 16 << 20

// gcsObject is an object of Google Cloud Storage. It is stored by a resumable upload
// (https://cloud.google.com/storage/docs/performing-resumable-uploads).
type gcsObject struct {
	place  *fetch.GCSPlace
	client *fetch.GCSClient
}

func newGCS(place *fetch.GCSPlace) (object, error) {
	client, err := place.Client()
	return gcsObject{place, client}, err
}

func (g gcsObject) size(ctx context.Context) (size int64, err error) {
	at := g.client.URL(url.Values{"fields": {"size"}}, "storage", "v1", "b", g.place.Bucket(), "o", g.place.Key())
	var known error
	err = g.place.Retry(ctx, func(ctx context.Context) error {
		resp, err := g.do(ctx, http.MethodGet, at.String(), nil, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusNotFound:
			known = errMissing // or the bucket is, which put tells
			return nil
		case http.StatusForbidden:
			known = errUnknown // these credentials may only write
			return nil
		case http.StatusOK:
		default:
			return g.client.StatusError(resp)
		}
		var attrs struct {
			Size int64 `json:",string"`
		}
		err = json.NewDecoder(resp.Body).Decode(&attrs)
		size = attrs.Size
		return err
	})
	return size, cmp.Or(err, known)
}

func (g gcsObject) put(ctx context.Context, f *os.File, size int64, sent func(int64)) error {
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	if _, err := io.Copy(sum, &counted{ctx, io.NewSectionReader(f, 0, size), func(int64) {}}); err != nil {
		return err
	}
	s := gcsSession{gcsObject: g, file: f, size: size}
	err := g.place.Retry(ctx, func(ctx context.Context) error { return s.begin(ctx, sum.Sum32()) })
	for err == nil && !s.stored && !s.exists {
		offset := s.offset
		failed := false
		err = g.place.Retry(ctx, func(ctx context.Context) (err error) {
			if failed { // the server may have some of it
				err = s.send(ctx, 0)
			}
			if err == nil && !s.stored && !s.exists {
				err = s.send(ctx, min(gcsChunk, size-s.offset))
			}
			failed = err != nil
			return err
		})
		if err == nil && !s.stored && !s.exists && s.offset <= offset {
			err = fmt.Errorf("the server does not take more than the first %d bytes", s.offset)
		}
		if err == nil && s.stored {
			sent(size - offset)
		} else if err == nil {
			sent(s.offset - offset)
		}
	}
	if err == nil && s.exists {
		err = errExists
	}
	return err
}

// gcsSession is a resumable upload. What it stores appears when all of it has arrived.
type gcsSession struct {
	gcsObject
	file   *os.File
	size   int64
	url    string // secret: whoever knows it can write
	offset int64  // how many bytes the server has
	stored bool
	exists bool // something is stored there already
}

// begin starts the session.
func (s *gcsSession) begin(ctx context.Context, crc uint32) error {
	at := s.client.URL(url.Values{"uploadType": {"resumable"}, "ifGenerationMatch": {"0"}, "name": {s.place.Key()}}, "upload", "storage", "v1", "b", s.place.Bucket(), "o")
	const contentType = "application/octet-stream"
	attrs, err := json.Marshal(map[string]string{"contentType": contentType, "crc32c": base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc))})
	if err != nil {
		return err
	}
	resp, err := s.do(ctx, http.MethodPost, at.String(), bytes.NewReader(attrs), map[string]string{
		"Content-Type":            "application/json",
		"X-Upload-Content-Type":   contentType,
		"X-Upload-Content-Length": strconv.FormatInt(s.size, 10),
	})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusPreconditionFailed:
		s.exists = true
	case resp.StatusCode != http.StatusOK:
		return s.client.StatusError(resp)
	case resp.Header.Get("Location") == "":
		return errors.New("the server did not begin an upload session")
	default:
		s.url = resp.Header.Get("Location")
	}
	return nil
}

// send sends n bytes from the offset on. With 0, it only asks how many the server has;
// if that is all, also of an empty file, the server stores the object.
func (s *gcsSession) send(ctx context.Context, n int64) error {
	span := "*"
	if n > 0 {
		span = fmt.Sprintf("%d-%d", s.offset, s.offset+n-1)
	}
	var body io.Reader = http.NoBody
	if n > 0 {
		body = io.NewSectionReader(s.file, s.offset, n)
	}
	resp, err := s.do(ctx, http.MethodPut, s.url, body, map[string]string{"Content-Range": fmt.Sprintf("bytes %s/%d", span, s.size)})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK, http.StatusCreated:
		s.stored = true
	case http.StatusPreconditionFailed:
		s.exists = true
	case http.StatusPermanentRedirect: // here: more is to come
		s.offset = 0
		if last, ok := strings.CutPrefix(resp.Header.Get("Range"), "bytes=0-"); ok {
			end, err := strconv.ParseInt(last, 10, 64)
			if err != nil || end < 0 || end >= s.size {
				return errors.New("the server says that it has more than was sent")
			}
			s.offset = end + 1
		}
	default:
		return s.client.StatusError(resp)
	}
	return nil
}

// do sends a request. The length of the body is that of a bytes.Reader or an
// io.SectionReader.
func (g gcsObject) do(ctx context.Context, method, at string, body io.Reader, headers map[string]string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, at, body)
	if err != nil {
		return nil, errors.New("the server gave no valid URL for the upload") // without the error, which has the URL
	}
	if section, ok := body.(*io.SectionReader); ok {
		req.ContentLength = section.Size()
	}
	for name, value := range headers {
		req.Header.Set(name, value)
	}
	return g.client.Do(req)
}
