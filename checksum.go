package stretcher

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

// newDigest returns the hash function that the checksum names by its length.
func newDigest(checksum string) (hash.Hash, error) {
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
	return nil, fmt.Errorf("checksum %q is not the hex of an md5, sha1, sha256 or sha512", checksum)
}

// verify compares what digest has seen with the checksum of the manifest.
func verify(checksum string, digest hash.Hash) error {
	got := hex.EncodeToString(digest.Sum(nil))
	if !strings.EqualFold(got, checksum) {
		//lint:ignore ST1005 operators match on these words
		return fmt.Errorf("Checksum mismatch: the manifest says %s, the archive has %s", checksum, got)
	}
	return nil
}
