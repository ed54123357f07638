package main

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"hash"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"stretcher": main})
}

// TestScripts runs the scripts in testdata, which contain what a user would type.
// In them, the command stretcher runs main of this package.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("GORACE", "atexit_sleep_ms=0") // otherwise each exit is delayed by a second
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %s", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"deploy":   deploy,
			"archive":  archive,
			"checksum": checksum,
			"keypair":  keypair,
			"sign":     sign,
			"mode":     mode,
			"objects":  objects,
		},
	})
}

// deploy MANIFEST [flag...] runs echo MANIFEST | stretcher [flag...], where
// MANIFEST is a URL or a file. The exit status must be 0, or 1 after a !. In both
// cases it must not leave a temporary file behind.
func deploy(ts *testscript.TestScript, neg bool, args []string) {
	url := args[0]
	if !strings.Contains(url, "://") {
		url = "file://" + ts.MkAbs(url)
	}
	script := `url=$1; shift; echo "$url" | stretcher "$@"; status=$?; test $status = 1 && exit 1; test $status = 0 || kill $$`
	err := ts.Exec("sh", append([]string{"-c", script, "sh", url}, args[1:]...)...)
	if err != nil && err.Error() != "exit status 1" {
		ts.Fatalf("stretcher exited with neither 0 nor 1: %v", err)
	}
	if neg == (err == nil) {
		ts.Fatalf("deploy: %v", err)
	}
	ts.Check(filepath.WalkDir(ts.Getenv("WORK"), func(path string, d fs.DirEntry, err error) error {
		inTemp := filepath.Dir(path) == ts.Getenv("TMPDIR")
		if err == nil && (inTemp || strings.Contains(d.Name(), ".stretcher")) {
			err = fmt.Errorf("%s was left behind", path)
		}
		return err
	}))
}

// archive DIR packs the contents of DIR into DIR.tar, without an entry for DIR
// itself, and sets the variable SHA256 to the checksum of DIR.tar.
func archive(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs(args[0])
	list, err := os.ReadDir(dir)
	ts.Check(err)
	tar := []string{"-cf", dir + ".tar", "-C", dir, "--"}
	for _, e := range list {
		tar = append(tar, e.Name())
	}
	ts.Check(ts.Exec("tar", tar...))
	checksum(ts, neg, []string{"sha256", dir + ".tar"})
}

// checksum KIND FILE sets the variable KIND, in upper case, to the checksum of
// FILE.
func checksum(ts *testscript.TestScript, _ bool, args []string) {
	digest := map[string]func() hash.Hash{"md5": md5.New, "sha1": sha1.New, "sha256": sha256.New, "sha512": sha512.New}[args[0]]()
	digest.Write([]byte(ts.ReadFile(args[1])))
	ts.Setenv(strings.ToUpper(args[0]), fmt.Sprintf("%x", digest.Sum(nil)))
}

// objects FILE fails unless FILE has lines, and each is a JSON object with a time, a
// level, a message and, if it is of a command, the command and the stream.
func objects(ts *testscript.TestScript, _ bool, args []string) {
	text := ts.ReadFile(args[0])
	if text == "" {
		ts.Fatalf("%s is empty", args[0])
	}
	for line := range strings.Lines(text) {
		var object map[string]string
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			ts.Fatalf("%s has the line %q: %v", args[0], line, err)
		}
		if _, err := time.Parse(time.RFC3339, object["time"]); err != nil {
			ts.Fatalf("the time of %s: %v", line, err)
		}
		keys := slices.Sorted(maps.Keys(object))
		if !slices.Equal(keys, []string{"level", "message", "time"}) && !slices.Equal(keys, []string{"command", "level", "message", "stream", "time"}) {
			ts.Fatalf("the keys of %s", line)
		}
	}
}

// mode OCTAL FILE fails unless FILE has exactly this mode.
func mode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Lstat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s has mode %s, expected %s", args[1], got, args[0])
	}
}
