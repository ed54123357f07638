package main

import (
	"bytes"
	"os"
	"strconv"
	"strings"

	"aead.dev/minisign"
	"github.com/rogpeppe/go-internal/testscript"
)

// keypair NAME writes a new key pair of minisign to NAME.pub and NAME.key.
func keypair(ts *testscript.TestScript, _ bool, args []string) {
	public, secret, err := minisign.GenerateKey(nil)
	ts.Check(err)
	for file, key := range map[string]interface{ MarshalText() ([]byte, error) }{".pub": public, ".key": secret} {
		text, err := key.MarshalText()
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[0]+file), append(text, '\n'), 0o600))
	}
	id := strings.Fields(ts.ReadFile(args[0] + ".pub"))[5]
	ts.Setenv("ID_"+args[0], id)
}

// sign NAME FILE COMMENT writes the signature of FILE by a key of keypair, with this
// trusted comment, as in a string of Go, to FILE.minisig.
func sign(ts *testscript.TestScript, _ bool, args []string) {
	var secret minisign.PrivateKey
	ts.Check(secret.UnmarshalText([]byte(ts.ReadFile(args[0] + ".key"))))
	comment, err := strconv.Unquote(`"` + args[2] + `"`)
	ts.Check(err)
	r := minisign.NewReader(strings.NewReader(ts.ReadFile(args[1])))
	_, err = new(bytes.Buffer).ReadFrom(r)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]+".minisig"), r.SignWithComments(secret, comment, "by a test"), 0o600))
}
