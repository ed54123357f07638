// Package signature verifies minisign signatures (https://jedisct1.github.io/minisign/)
// by any of several public keys, and says which key it was, or why none was. It makes
// them, too.
package signature

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"aead.dev/minisign"
	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/redact"
)

// maxKeySize is how large the file of a key may be, in bytes. With the longest
// comment, that of minisign(1) has less than 2 KiB.
const maxKeySize = 4 << 10

// secretKeySize is how many bytes the base64 of a secret key stands for.
const secretKeySize = 158

// Keys are public keys, any of which may verify a signature.
type Keys []minisign.PublicKey

// ReadKeys reads files of one public key each: what minisign -G writes, or only the
// base64 line of that. One bad file makes it fail, so that a mistake does not go
// unnoticed until the other keys are retired. The error names the file, and has
// nothing of its contents.
func ReadKeys(paths []string) (Keys, error) {
	var keys Keys
	for _, path := range paths {
		key, err := readKey(path)
		if at, ok := errors.AsType[*fs.PathError](err); ok {
			err = at.Err
			if _, wrong := parseKey([]byte(path)); wrong == nil {
				err = fmt.Errorf("%w: give the path of a file that has this key in it", err)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("public key %q: %w", path, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func readKey(path string) (key minisign.PublicKey, err error) {
	text, err := readKeyFile(path)
	if err != nil {
		return key, err
	}
	return parseKey(text)
}

// readKeyFile returns the contents of the file of a key, public or secret.
func readKeyFile(path string) ([]byte, error) {
	// Without O_NONBLOCK, opening a FIFO would block until it has a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeySize+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxKeySize {
		return nil, fmt.Errorf("larger than %d bytes: not a key of minisign", maxKeySize)
	}
	return text, nil
}

// parseKey parses the text of a public key.
func parseKey(text []byte) (key minisign.PublicKey, err error) {
	text = bytes.TrimSpace(text)
	lines := bytes.Split(text, []byte("\n"))
	last := lines[len(lines)-1]
	// UnmarshalText would join the lines after a comment, and ignore those after a
	// first line that is not one.
	hasComment := len(lines) == 2 && bytes.HasPrefix(lines[0], []byte("untrusted comment: "))
	if (len(lines) == 1 || hasComment) && key.UnmarshalText(text) == nil {
		return key, nil
	}
	if secret, _ := base64.StdEncoding.DecodeString(string(last)); len(secret) == secretKeySize {
		return key, errors.New("a secret key: give the public key instead, NAME.pub, and keep the secret one off the hosts")
	}
	if len(lines) > 2 && key.UnmarshalText(last) == nil {
		return minisign.PublicKey{}, errors.New("more than one key: put each in a file of its own")
	}
	return minisign.PublicKey{}, errors.New("not a public key of minisign")
}

// Verify verifies the signature of message, prehashed or legacy, and that of its
// trusted comment. It returns the ID of the key that both are by, as minisign(1)
// prints it, and the trusted comment, escaped for the log. The error says whether
// none of the keys has signed it, or what one of them has signed was changed.
func (k Keys) Verify(message, signature []byte) (id, comment string, err error) {
	var s minisign.Signature
	if err := s.UnmarshalText(signature); err != nil {
		return "", "", errors.New("its signature is not one of minisign, or was cut off")
	}
	id = keyID(s.KeyID)
	known := false
	for _, key := range k {
		if minisign.Verify(key, message, signature) {
			return id, redact.Printable(s.TrustedComment), nil
		}
		known = known || key.ID() == s.KeyID
	}
	if known {
		return "", "", fmt.Errorf("the signature of key %s does not match: the manifest or its signature was changed", id)
	}
	return "", "", fmt.Errorf("signed by key %s, which is %s", id, k.foreign())
}

// foreign returns the words of an error which say that a key is none of k.
func (k Keys) foreign() string {
	var ids []string
	for _, key := range k {
		ids = append(ids, keyID(key.ID()))
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if len(ids) == 1 {
		return "not the key given, " + ids[0]
	}
	return fmt.Sprintf("none of the %d keys given, %s", len(ids), strings.Join(ids, ", "))
}

// keyID returns the ID of a key as minisign(1) prints it.
func keyID(id uint64) string { return fmt.Sprintf("%X", id) }
