// Package checksum verifies archives: by an MD5, SHA-1, SHA-256 or SHA-512 in hex, which
// its length tells apart.
package checksum

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
)

// New returns the hash function that the length of the checksum implies.
func New(checksum string) (hash.Hash, error) {
	sum, err := hex.DecodeString(checksum)
	if err == nil {
		switch len(sum) {
		case md5.Size:
			return md5.New(), nil
		case sha1.Size:
			return sha1.New(), nil
		case sha256.Size:
			return sha256.New(), nil
		case sha512.Size:
			return sha512.New(), nil
		}
	}
	return nil, fmt.Errorf("checksum %q is not the hex of an md5, sha1, sha256 or sha512%s", checksum, hint(checksum))
}

// Weak returns what a checksum of New is, with an article, if somebody can make two
// archives that have the same. Otherwise it returns "".
func Weak(checksum string) string {
	switch len(checksum) {
	case 2 * md5.Size:
		return "an md5"
	case 2 * sha1.Size:
		return "a sha1"
	}
	return ""
}

// hint says what may be wrong with a checksum, after a colon.
func hint(checksum string) string {
	if name, _, ok := strings.Cut(checksum, ":"); ok && len(name) <= 10 {
		return fmt.Sprintf(": leave out the prefix %q", name+":")
	}
	if strings.TrimSpace(checksum) != checksum {
		return ": leave out the blanks around it"
	}
	if strings.Trim(checksum, "0123456789abcdefABCDEF") != "" {
		return ""
	}
	nearest, name := 0, ""
	for _, d := range []struct {
		name   string
		digits int
	}{{"md5", 2 * md5.Size}, {"sha1", 2 * sha1.Size}, {"sha256", 2 * sha256.Size}, {"sha512", 2 * sha512.Size}} {
		if name == "" || max(d.digits-len(checksum), len(checksum)-d.digits) < max(nearest-len(checksum), len(checksum)-nearest) {
			nearest, name = d.digits, d.name
		}
	}
	return fmt.Sprintf(": it has %d hex digits, and %s has %d", len(checksum), name, nearest)
}

// Verify compares the digest of the archive, all of which was written to it, with the
// manifest's checksum.
func Verify(checksum string, digest hash.Hash) error {
	got := hex.EncodeToString(digest.Sum(nil))
	if !strings.EqualFold(got, checksum) {
		//lint:ignore ST1005 operators match on these words
		return fmt.Errorf("Checksum mismatch: the manifest says %s, the archive has %s", checksum, got)
	}
	return nil
}
