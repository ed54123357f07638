package signature

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aead.dev/minisign"
	"golang.org/x/crypto/blake2b"
)

// pair is a key pair, and the text of its public key.
type pair struct {
	public minisign.PublicKey
	secret minisign.PrivateKey
	text   string
}

func newPair(t testing.TB) pair {
	t.Helper()
	public, secret, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := public.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	return pair{public, secret, string(text) + "\n"}
}

func (p pair) id() string { return keyID(p.public.ID()) }

// sign signs message, prehashed as minisign -S or without as minisign -S -l.
func (p pair) sign(t testing.TB, message, comment string, prehashed bool) string {
	t.Helper()
	if !prehashed {
		return string(minisign.SignWithComments(p.secret, []byte(message), comment, "by a test"))
	}
	r := minisign.NewReader(strings.NewReader(message))
	if _, err := new(bytes.Buffer).ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	return string(r.SignWithComments(p.secret, comment, "by a test"))
}

const message = "src: s3://bucket/app.tar.gz\nchecksum: x\r\n"

func TestVerify(t *testing.T) {
	t.Parallel()
	a, b, other := newPair(t), newPair(t), newPair(t)
	const malformed = "its signature is not one of minisign, or was cut off"
	mismatch := "the signature of key " + a.id() + " does not match: the manifest or its signature was changed"
	for _, prehashed := range []bool{true, false} {
		signature := a.sign(t, message, "the\tcomment\x1b[1m", prehashed)
		lines := strings.SplitAfter(signature, "\n")
		for _, test := range []struct {
			name, message, signature string
			keys                     Keys
			want                     string // the error
		}{
			{"one key", message, signature, Keys{a.public}, ""},
			{"two keys", message, signature, Keys{b.public, a.public}, ""},
			{"CRLF", message, strings.ReplaceAll(signature, "\n", "\r\n"), Keys{a.public}, ""},
			{"no last newline", message, strings.TrimSuffix(signature, "\n"), Keys{a.public}, ""},
			{"untrusted comment", message, strings.Replace(signature, "by a test", "changed", 1), Keys{a.public}, ""},
			{"other key", message, signature, Keys{other.public}, "signed by key " + a.id() + ", which is not the key given, " + other.id()},
			{"no such key", message, signature, Keys{other.public, b.public, b.public}, "signed by key " + a.id() + ", which is none of the 2 keys given, " + min(b.id(), other.id()) + ", " + max(b.id(), other.id())},
			{"message", message + "\n", signature, Keys{b.public, a.public}, mismatch},
			{"no message", "", signature, Keys{a.public}, mismatch},
			{"message without CR", strings.ReplaceAll(message, "\r", ""), signature, Keys{a.public}, mismatch},
			{"trusted comment", message, strings.Replace(signature, "the\tcomment", "the comment", 1), Keys{a.public}, mismatch},
			{"signature of the comment", message, lines[0] + lines[1] + lines[2] + strings.SplitAfter(a.sign(t, message, "another", prehashed), "\n")[3], Keys{a.public}, mismatch},
			{"no signature of the comment", message, lines[0] + lines[1] + lines[2], Keys{a.public}, malformed},
			{"only two lines", message, lines[0] + lines[1], Keys{a.public}, malformed},
			{"cut off", message, signature[:len(signature)/2], Keys{a.public}, malformed},
			{"more lines", message, signature + "junk\n", Keys{a.public}, malformed},
			{"empty", message, "", Keys{a.public}, malformed},
			{"a page", message, "<html>\n<p>s3cret</p>\n</html>\n", Keys{a.public}, malformed},
		} {
			id, comment, err := test.keys.Verify([]byte(test.message), []byte(test.signature))
			got := ""
			if err != nil {
				got = err.Error()
			} else if id != a.id() || comment != `the\tcomment\x1b[1m` {
				t.Errorf("%s: key %s, comment %q", test.name, id, comment)
			}
			if got != test.want {
				t.Errorf("%s: got %q, want %q", test.name, got, test.want)
			}
		}
	}
}

// A prehashed signature must not pass for a legacy one, or the other way round.
func TestVerifyAlgorithm(t *testing.T) {
	t.Parallel()
	a := newPair(t)
	for _, prehashed := range []bool{true, false} {
		var s minisign.Signature
		if err := s.UnmarshalText([]byte(a.sign(t, message, "comment", prehashed))); err != nil {
			t.Fatal(err)
		}
		s.Algorithm = minisign.EdDSA + minisign.HashEdDSA - s.Algorithm
		if _, _, err := (Keys{a.public}).Verify([]byte(message), []byte(s.String())); err == nil {
			t.Errorf("prehashed %t: accepted as the other algorithm", prehashed)
		}
	}
}

// Two keys may have the same ID, which is not derived from the key.
func TestVerifySameID(t *testing.T) {
	t.Parallel()
	a, b := newPair(t), newPair(t)
	raw, err := base64.StdEncoding.DecodeString(a.public.String())
	if err != nil {
		t.Fatal(err)
	}
	rawB, err := base64.StdEncoding.DecodeString(b.public.String())
	if err != nil {
		t.Fatal(err)
	}
	copy(rawB[2:10], raw[2:10])
	same, err := parseKey([]byte(base64.StdEncoding.EncodeToString(rawB)))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := (Keys{same, a.public}).Verify([]byte(message), []byte(a.sign(t, message, "", true))); err != nil {
		t.Error(err)
	}
}

func TestReadKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := newPair(t)
	secret, err := a.secret.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	line := a.public.String()
	const wrong = "not a public key of minisign"
	for _, test := range []struct{ name, text, want string }{
		{"as written by minisign", a.text, ""},
		{"no last newline", strings.TrimSpace(a.text), ""},
		{"CRLF", strings.ReplaceAll(a.text, "\n", "\r\n"), ""},
		{"blank lines", a.text + "\n\n", ""},
		{"only the key", line + "\n", ""},
		{"secret key", string(secret), "a secret key: give the public key instead, NAME.pub, and keep the secret one off the hosts"},
		{"two keys", a.text + newPair(t).text, "more than one key: put each in a file of its own"},
		{"two keys without comments", line + "\n" + newPair(t).public.String(), wrong},
		{"two lines", "comment\n" + line, wrong},
		{"cut off", a.text[:len(a.text)-10], wrong},
		{"signature", a.sign(t, message, "", true), wrong},
		{"empty", "", wrong},
		{"text", "s3cret", wrong},
		{"algorithm", "untrusted comment: \nRUQ" + line[3:], wrong},
		{"large", strings.Repeat("s3cret\n", 1000), "larger than 4096 bytes: not a key of minisign"},
	} {
		path := filepath.Join(dir, test.name)
		if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		keys, err := ReadKeys([]string{path})
		switch {
		case test.want == "" && (err != nil || len(keys) != 1 || !keys[0].Equal(a.public)):
			t.Errorf("%s: %v", test.name, err)
		case test.want != "" && (err == nil || err.Error() != `public key "`+path+`": `+test.want):
			t.Errorf("%s: error %v", test.name, err)
		}
	}
	good := filepath.Join(dir, "as written by minisign")
	for path, want := range map[string]string{
		filepath.Join(dir, "missing"): "no such file or directory",
		dir:                           "not a regular file",
		"/dev/zero":                   "not a regular file",
		"":                            "no such file or directory",
		line:                          "no such file or directory: give the path of a file that has this key in it",
	} {
		if _, err := ReadKeys([]string{good, path}); err == nil || err.Error() != `public key "`+path+`": `+want {
			t.Errorf("%s: error %v", path, err)
		}
	}
}

// Whatever the texts are, what is accepted has two valid Ed25519 signatures, and an
// error is one line.
func FuzzVerify(f *testing.F) {
	a, b := newPair(f), newPair(f)
	for _, prehashed := range []bool{true, false} {
		f.Add(a.text, message, a.sign(f, message, "comment", prehashed))
		f.Add(b.text, message, a.sign(f, message, "", prehashed))
		f.Add(a.public.String(), "", strings.ReplaceAll(a.sign(f, "", "x", prehashed), "\n", "\r\n"))
	}
	f.Fuzz(func(t *testing.T, keyText, message, signature string) {
		key, err := parseKey([]byte(keyText))
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("error %q", err)
			}
			key = a.public
		}
		_, comment, err := Keys{key}.Verify([]byte(message), []byte(signature))
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("error %q", err)
			}
			return
		}
		if strings.ContainsAny(comment, "\r\n\x1b") {
			t.Errorf("comment %q", comment)
		}
		public := decode(t, key.String())[10:]
		lines := strings.SplitN(signature, "\n", 4)
		raw, global := decode(t, lines[1]), decode(t, lines[3])
		of := []byte(message)
		if string(raw[:2]) == "ED" {
			sum := blake2b.Sum512(of)
			of = sum[:]
		} else if string(raw[:2]) != "Ed" {
			t.Errorf("algorithm %q", raw[:2])
		}
		trusted := strings.TrimPrefix(strings.TrimRight(lines[2], "\r"), "trusted comment: ")
		if !ed25519.Verify(public, of, raw[10:]) || !ed25519.Verify(public, append(raw[10:], trusted...), global) {
			t.Errorf("accepted %q for %q", signature, message)
		}
	})
}

func decode(t *testing.T, s string) []byte {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
