package signature

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime/debug"
	"time"

	"aead.dev/minisign"

	"github.com/fujiwara/stretcher/internal/redact"
)

// SecretKey is the secret key of minisign that manifests are signed with.
type SecretKey struct{ key minisign.PrivateKey }

// ReadSecretKey reads the file of a secret key, as minisign -G writes it, with or
// without a password. password is called if the key has one. To decrypt a key takes
// about 1 GiB of memory and some seconds, as with minisign(1). The error names the
// file, and has nothing of its contents.
func ReadSecretKey(path string, password func() (string, error)) (SecretKey, error) {
	text, err := readKeyFile(path)
	if at, ok := errors.AsType[*fs.PathError](err); ok {
		err = at.Err
	}
	var k SecretKey
	if err == nil {
		k, err = parseSecretKey(text, password)
	}
	if err != nil {
		return SecretKey{}, fmt.Errorf("secret key %q: %w", path, err)
	}
	return k, nil
}

// parseSecretKey parses the text of a secret key.
func parseSecretKey(text []byte, password func() (string, error)) (k SecretKey, err error) {
	text = bytes.TrimSpace(text)
	if _, err := parseKey(text); err == nil {
		return k, errors.New("a public key: give the secret key instead, which minisign -G has written to NAME.key")
	}
	lines := bytes.Split(text, []byte("\n"))
	decoded, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(lines[len(lines)-1])))
	if err != nil || len(decoded) != secretKeySize || len(lines) > 2 || !bytes.HasPrefix(decoded, []byte("Ed")) || string(decoded[4:6]) != "B2" {
		return k, errors.New("not a secret key of minisign")
	}
	if !minisign.IsEncrypted(text) {
		if err := k.key.UnmarshalText(text); err != nil {
			return k, errors.New("encrypted in a way that is not known: make a key with minisign -G")
		}
		return k, nil
	}
	secret, err := password()
	if err != nil {
		return k, err
	}
	// The memory that decrypting takes is not needed any more.
	defer debug.FreeOSMemory()
	if k.key, err = minisign.DecryptKey(secret, text); err != nil {
		return k, errors.New("wrong password, or the file was damaged")
	}
	return k, nil
}

// Sign returns the signature of a file with this name and these contents, with the
// comments that minisign -S would make at this time. It is prehashed.
func (k SecretKey) Sign(name string, message []byte, at time.Time) ([]byte, error) {
	r := minisign.NewReader(bytes.NewReader(message))
	if _, err := io.Copy(io.Discard, r); err != nil {
		return nil, err
	}
	comment := fmt.Sprintf("timestamp:%d\tfile:%s\thashed", at.Unix(), redact.Printable(name))
	text := r.SignWithComments(k.key, comment, "signature from minisign secret key")
	// A key that has no password has no checksum either.
	if !k.Signed(message, text) {
		return nil, errors.New("the secret key was damaged: its signature does not match")
	}
	return text, nil
}

// Signed reports whether the signature of the message is by this key.
func (k SecretKey) Signed(message, signature []byte) bool {
	_, _, err := Keys{k.key.Public().(minisign.PublicKey)}.Verify(message, signature)
	return err == nil
}
