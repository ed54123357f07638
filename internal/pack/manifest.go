package pack

import (
	"bytes"
	"fmt"
	"regexp"

	"github.com/fujiwara/stretcher/internal/seekable"
)

// Manifest returns the text of a manifest with the archive at the URL src, its
// checksum, and the place of its index, if it has one. All else is as in the
// template, which may be empty. The text is not parsed: it may have references to
// environment variables, which only hosts can replace.
func Manifest(template []byte, src, checksum string, index *seekable.Place) []byte {
	text := fmt.Sprintf("src: %q\nchecksum: %s\n", src, checksum)
	if index != nil {
		text += fmt.Sprintf("index: {offset: %d, size: %d, sha256: %x}\n", index.Offset, index.Size, index.Sum)
	}
	// The old keys, with the lines that continue their values.
	old := regexp.MustCompile(`(?m)^(src|checksum|index)[ \t]*:.*\n?([ \t].*\n?)*`)
	rest := template
	head := []byte(nil)
	if at := old.FindIndex(template); at != nil {
		head, rest = template[:at[0]], template[at[0]:]
	} else if bytes.HasPrefix(template, []byte("---")) {
		end := bytes.IndexByte(template, '\n') + 1
		head, rest = template[:end], template[end:]
	}
	return append(append(bytes.Clone(head), text...), old.ReplaceAll(rest, nil)...)
}
