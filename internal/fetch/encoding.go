package fetch

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/dustin/go-humanize"

	"github.com/fujiwara/stretcher/internal/redact"
)

// maxCodings is how many content codings of one manifest are decoded.
const maxCodings = 5

// encoding is the Content-Encoding of an object (RFC 9110, section 8.4), which
// users store with it: gsutil cp -Z, aws s3 cp --content-encoding.
type encoding struct {
	sent    string // of the bytes that the server sends; "" for none
	decoded string // what Google Cloud Storage has decoded before it sent them; "" for nothing
}

// httpEncoding returns the encoding that the headers of an answer say.
func httpEncoding(h http.Header) encoding {
	e := encoding{sent: strings.Join(h.Values("Content-Encoding"), ", ")}
	// Google Cloud Storage decodes for a client that has not asked for gzip:
	// https://cloud.google.com/storage/docs/transcoding
	if e.sent == "" {
		e.decoded = h.Get("X-Goog-Stored-Content-Encoding")
	}
	return e
}

// codings splits a Content-Encoding into the names of codings, in the order in
// which they were applied. It leaves out those that change nothing: identity,
// and aws-chunked, which some servers keep although it was only for the upload.
func codings(contentEncoding string) []string {
	var names []string
	for name := range strings.SplitSeq(contentEncoding, ",") {
		switch name = strings.ToLower(strings.TrimSpace(name)); name {
		case "", "identity", "aws-chunked":
		default:
			names = append(names, name)
		}
	}
	return names
}

// decode returns the bytes of a manifest, or of its signature, without its encoding.
// They may be at most limit bytes.
func (e encoding) decode(data []byte, limit int64) ([]byte, error) {
	names := codings(e.sent)
	if len(names) > maxCodings {
		return nil, fmt.Errorf("more than %d content codings", maxCodings)
	}
	for len(names) > 0 {
		last := names[len(names)-1]
		names = names[:len(names)-1]
		switch {
		case last == "gzip" || last == "x-gzip":
			var err error
			if data, err = gunzip(data, limit); err != nil {
				return nil, fmt.Errorf("decode Content-Encoding %s: %w", redact.Printable(last), err)
			}
		case !utf8.Valid(data):
			return nil, fmt.Errorf("the Content-Encoding %s is not supported: store the manifest without it, or with gzip", textReason(last))
		default:
			// Some store a text with what is no coding, such as utf-8.
		}
	}
	return data, nil
}

// gunzip decompresses at most limit bytes.
func gunzip(data []byte, limit int64) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, noEOF(err)
	}
	data, err = io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("larger than %s", humanize.IBytes(uint64(limit)))
	}
	return data, nil
}

// noEOF returns the error for data that ends too early in place of io.EOF.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// hint is to be appended to the error of a wrong checksum: it says which bytes the
// checksum has to be of. It is "" if there is no encoding that could be the reason.
func (e encoding) hint() string {
	switch {
	case len(codings(e.sent)) > 0:
		return fmt.Sprintf(": the server sent it with Content-Encoding %s, which is decoded for manifests only: the checksum has to be that of the stored, encoded bytes", textReason(e.sent))
	case len(codings(e.decoded)) > 0:
		return fmt.Sprintf(": it is stored with Content-Encoding %s, which the server decoded: the checksum has to be that of the decoded bytes, or that of the stored ones with a URL of the scheme gs", textReason(e.decoded))
	}
	return ""
}
