package stretcher_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/fujiwara/stretcher"
)

func ExampleParseManifest() {
	m, err := stretcher.ParseManifest([]byte(`
src: s3://releases/app-1.2.4.tar.gz
checksum: e0840daaa97cd2cf2175f9e5d133ffb3324a2b93
dest: /srv/app
commands:
  post:
    - systemctl restart app
`))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(m.Src)
	fmt.Println(m.Commands.Post[0])
	// Output:
	// s3://releases/app-1.2.4.tar.gz
	// systemctl restart app
}

// A manifest without src only runs its commands.
func ExampleManifest_Deploy() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	m := &stretcher.Manifest{
		Commands: stretcher.Commands{
			Pre:  stretcher.CommandLines{stretcher.CommandLine("echo deployed > " + filepath.Join(dir, "result"))},
			Post: stretcher.CommandLines{"true"},
		},
	}
	if err := m.Deploy(stretcher.Config{Retry: 3, RetryWait: 3 * time.Second}); err != nil {
		os.Exit(1) // the log says why
	}
	result, err := os.ReadFile(filepath.Join(dir, "result"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(string(result))
	// Output: deployed
}

// What the command stretcher does: the event, here a URL, comes from stdin.
func ExampleRun() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	manifest := filepath.Join(dir, "manifest.yml")
	if err := os.WriteFile(manifest, []byte("commands: {pre: ['true']}\n"), 0o644); err != nil {
		log.Fatal(err)
	}
	in, out, err := os.Pipe()
	if err != nil {
		log.Fatal(err)
	}
	stdin := os.Stdin
	defer func() { os.Stdin = stdin }()
	os.Stdin = in
	fmt.Fprintln(out, "file://"+manifest)
	out.Close()

	conf := stretcher.Config{InitSleep: stretcher.RandomTime(0), LogLevel: "ERROR"}
	fmt.Println(stretcher.Run(conf))
	// Output: <nil>
}
