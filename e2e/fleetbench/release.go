package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The releases that are deployed.
const (
	fileCount   = 250
	fileSize    = 20 << 10
	changedPart = 20      // one file in so many differs in the second release,
	changedSize = 4 << 10 // in so many bytes
)

// fleet is what the runs have in common.
type fleet struct {
	dir       string
	agent     string // path of the program
	agents    int
	described string   // what is deployed
	sum       [32]byte // of the contents of the second release
}

func (f *fleet) path(elem ...string) string {
	return filepath.Join(append([]string{f.dir}, elem...)...)
}

// manifestFrom is the manifest without src, checksum and index. All agents get the
// same; where they deploy to is in their environment.
const manifestFrom = `dest: '{{ must_env "FLEET_DEST" }}'
sync_strategy: builtin
commands:
  success:
    - grep VmHWM /proc/$PPID/status > "$FLEET_DEST.memory"
`

// release makes two releases in the directory that nginx serves: the second is an
// upgrade of the first, with patches.
func (f *fleet) release(ctx context.Context) error {
	for _, name := range []string{"one", "two"} {
		if err := f.tree(f.path(name), name == "two"); err != nil {
			return err
		}
	}
	var err error
	if f.sum, err = contents(f.path("two")); err != nil {
		return err
	}
	if err := os.WriteFile(f.path("from.yml"), []byte(manifestFrom), 0o644); err != nil {
		return err
	}
	if err := os.Mkdir(f.path("www"), 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, f.agent, "pack", "-base", f.path("one"), "-o", f.path("www", "app.tar.zst"),
		"-manifest", f.path("www", "app.yml"), "-manifest-from", f.path("from.yml"), f.path("two"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pack: %w\n%s", err, out)
	}
	info, err := os.Stat(f.path("www", "app.tar.zst"))
	if err != nil {
		return err
	}
	f.described = fmt.Sprintf("A release of %d files and %s, an archive of %s; %d files differ from the release before, each in %s.",
		fileCount, size(fileCount*fileSize), size(info.Size()), (fileCount+changedPart-1)/changedPart, size(changedSize))
	return nil
}

// served makes the manifest refer to the archive by its URL.
func (f *fleet) served(url string) error {
	path := f.path("www", "app.yml")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "src:") {
			lines[i] = "src: " + url + "/app.tar.zst"
		}
	}
	return os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o644)
}

// tree writes a release, of which half can be compressed.
func (f *fleet) tree(dir string, second bool) error {
	random, change := rand.NewChaCha8([32]byte{1}), rand.NewChaCha8([32]byte{2})
	for i := range fileCount {
		content := make([]byte, fileSize)
		random.Read(content[:fileSize/2])
		copy(content[fileSize/2:], bytes.Repeat([]byte("half of it is text\n"), fileSize/2/19))
		if second && i%changedPart == 0 {
			change.Read(content[:changedSize])
		}
		path := filepath.Join(dir, fmt.Sprintf("dir-%d", i%10), fmt.Sprintf("file-%d", i))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// contents returns a digest of the names and contents of all files below dir.
func contents(dir string) (sum [32]byte, err error) {
	h := sha256.New()
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %x\n", name, sha256.Sum256(data))
		return nil
	})
	return [32]byte(h.Sum(nil)), err
}

func size(bytes int64) string {
	if bytes < 1e6 {
		return fmt.Sprintf("%.1f kB", float64(bytes)/1e3)
	}
	return fmt.Sprintf("%.1f MB", float64(bytes)/1e6)
}
