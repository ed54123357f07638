package signature

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/scrypt"
)

// encrypted returns the text of a key with a password. Other than the keys of
// minisign(1), it takes only some milliseconds to decrypt.
func encrypted(t testing.TB, plain, password string) string {
	t.Helper()
	comment, line, _ := strings.Cut(strings.TrimSpace(plain), "\n")
	b, err := base64.StdEncoding.DecodeString(line)
	if err != nil {
		t.Fatal(err)
	}
	copy(b[2:], "Sc")
	binary.LittleEndian.PutUint64(b[38:], 1<<15) // operations
	binary.LittleEndian.PutUint64(b[46:], 1<<24) // bytes of memory
	sum := blake2b.Sum256(append([]byte("Ed"), b[54:126]...))
	copy(b[126:], sum[:])
	stream, err := scrypt.Key([]byte(password), b[6:38], 1<<10, 8, 1, 104)
	if err != nil {
		t.Fatal(err)
	}
	for i, k := range stream {
		b[54+i] ^= k
	}
	return comment + "\n" + base64.StdEncoding.EncodeToString(b) + "\n"
}

func password(s string) func() (string, error) { return func() (string, error) { return s, nil } }

// minisign(1) accepts what Sign makes with its keys, and Sign makes what it makes.
func TestSignOracle(t *testing.T) {
	t.Parallel()
	o := newOracle(t)
	o.must("-G", "-W", "-p", "plain.pub", "-s", "plain.key")
	generate := exec.Command("minisign", "-G", "-p", "encrypted.pub", "-s", "encrypted.key")
	generate.Dir, generate.Stdin = o.dir, strings.NewReader("s3cret word\ns3cret word\n")
	if out, err := generate.CombinedOutput(); err != nil {
		t.Fatalf("minisign -G: %v: %s", err, out)
	}
	for _, name := range []string{"plain", "encrypted"} {
		key, err := ReadSecretKey(o.path(name+".key"), password("s3cret word"))
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{message, ""} {
			at := time.Unix(1700000000, 0)
			signature, err := key.Sign("app.yml", []byte(text), at)
			if err != nil {
				t.Fatal(err)
			}
			o.write("app.yml", text)
			o.write("app.yml.minisig", string(signature))
			if out := o.must("-V", "-p", name+".pub", "-m", "app.yml"); !strings.Contains(out, "Trusted comment: timestamp:1700000000\tfile:app.yml\thashed\n") {
				t.Errorf("%s: %s", name, out)
			}
			if !key.Signed([]byte(text), signature) || key.Signed([]byte(text+"x"), signature) {
				t.Errorf("%s: Signed is wrong", name)
			}
			if name == "plain" {
				o.must("-S", "-s", "plain.key", "-m", "app.yml", "-t", "timestamp:1700000000\tfile:app.yml\thashed")
				if theirs := o.read("app.yml.minisig"); theirs != string(signature) {
					t.Errorf("minisign has signed it as\n%s, we as\n%s", theirs, signature)
				}
			}
		}
	}
}

func TestReadSecretKey(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	plain, err := p.secret.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	text := string(plain) + "\n"
	comment, line, _ := strings.Cut(text, "\n")
	flip := func(at int) string {
		b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		b[at]++
		return comment + "\n" + base64.StdEncoding.EncodeToString(b)
	}
	o := oracle{t, t.TempDir()}
	for _, test := range []struct{ name, text, want string }{
		{"plain", text, ""},
		{"crlf", strings.ReplaceAll(text, "\n", "\r\n"), ""},
		{"encrypted", encrypted(t, text, "s3cret word"), ""},
		{"other password", encrypted(t, text, "another"), "wrong password, or the file was damaged"},
		{"public", p.text, "a public key: give the secret key instead, which minisign -G has written to NAME.key"},
		{"cut off", text[:len(text)-9], "not a secret key of minisign"},
		{"two keys", text + text, "not a secret key of minisign"},
		{"other algorithm", flip(0), "not a secret key of minisign"},
		{"other encryption", flip(2), "encrypted in a way that is not known: make a key with minisign -G"},
		{"other checksum", flip(4), "not a secret key of minisign"},
		{"empty", "", "not a secret key of minisign"},
		{"large", strings.Repeat("s3cret\n", 1000), "larger than 4096 bytes: not a key of minisign"},
	} {
		o.write(test.name, test.text)
		_, err := ReadSecretKey(o.path(test.name), password("s3cret word"))
		want := ""
		if test.want != "" {
			want = `secret key "` + o.path(test.name) + `": ` + test.want
		}
		if got := errorText(err); got != want || strings.Contains(got, "s3cret") {
			t.Errorf("%s: %s, want %s", test.name, got, want)
		}
	}
	if _, err := ReadSecretKey(o.path("missing"), nil); errorText(err) != `secret key "`+o.path("missing")+`": no such file or directory` {
		t.Error(err)
	}
	if _, err := ReadSecretKey(o.path("encrypted"), func() (string, error) { return "", errors.New("no terminal") }); !strings.HasSuffix(errorText(err), ": no terminal") {
		t.Error(err)
	}
	// What is damaged in a key without a password is found when it signs.
	for _, at := range []int{70, 100} {
		o.write("damaged", flip(at))
		key, err := ReadSecretKey(o.path("damaged"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := key.Sign("app.yml", []byte(message), time.Now()); errorText(err) != "the secret key was damaged: its signature does not match" {
			t.Errorf("byte %d: %v", at, err)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// FuzzReadSecretKey looks for texts that make the parser panic, or that it takes for a
// key which cannot sign without saying so.
func FuzzReadSecretKey(f *testing.F) {
	p := newPair(f)
	text, err := p.secret.MarshalText()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Add(p.text)
	f.Add(encrypted(f, string(text), "s3cret word"))
	f.Fuzz(func(t *testing.T, text string) {
		key, err := parseSecretKey([]byte(text), func() (string, error) { return "", errors.New("no password") })
		if err != nil {
			return
		}
		if signature, err := key.Sign("app.yml", []byte(message), time.Unix(0, 0)); err == nil && !key.Signed([]byte(message), signature) {
			t.Errorf("%q signs as %s", text, signature)
		}
	})
}
