package main

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// pair is two versions of real software, which the ordinary clients of package
// registries get.
type pair struct {
	name     string
	programs []string
	versions [2]string
	// get makes the directory dir with a version.
	get func(ctx context.Context, version, dir string) error
}

//go:embed pairs
var npmProjects embed.FS

// pairs returns all pairs but that of the tree of the Go toolchain in use.
func pairs(ctx context.Context, cache string) []pair {
	list := []pair{
		{"node_modules of next 16.4.5 to 16.4.6", []string{"npm"}, [2]string{"16.4.5", "16.4.6"}, nextApp},
		{"caddy 2.11.8 to 2.11.9, one binary", []string{"go"}, [2]string{"v2.11.8", "v2.11.9"}, caddy},
		{"Go 1.26.7 to 1.26.8", []string{"go"}, [2]string{"1.26.7", "1.26.8"}, goToolchain},
	}
	for _, name := range []string{"python3-django", "openjdk-17-jre-headless"} {
		list = append(list, debianPair(ctx, cache, name))
	}
	return list
}

// directories returns directories with the two versions. They are kept in the directory
// cache, so that each is fetched, and built, only once.
func (p pair) directories(ctx context.Context, cache string) (dirs [2]string, err error) {
	for i, version := range p.versions {
		if version == "" {
			return dirs, errors.New("the package index has no two versions of it")
		}
		dirs[i] = filepath.Join(cache, p.directory(), version)
		if _, err := os.Stat(dirs[i]); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return dirs, err
		}
		for _, program := range p.programs {
			if _, err := exec.LookPath(program); err != nil {
				return dirs, err
			}
		}
		if err := p.fetch(ctx, version, dirs[i]); err != nil {
			return dirs, err
		}
	}
	return dirs, nil
}

// directory returns the name of the directory of the versions.
func (p pair) directory() string {
	return strings.NewReplacer("/", "_", " ", "_", ",", "").Replace(p.name)
}

// fetch gets a version into a directory, which exists only once it is complete.
func (p pair) fetch(ctx context.Context, version, dir string) (err error) {
	fmt.Printf("fetching %s (%s) to %s\n", p.name, version, dir)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	unfinished, err := os.MkdirTemp(filepath.Dir(dir), ".unfinished-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(unfinished)) }()
	made := filepath.Join(unfinished, "tree")
	if err := p.get(ctx, version, made); err != nil {
		return err
	}
	return os.Rename(made, dir)
}

// runIn runs a client.
func runIn(ctx context.Context, dir string, env []string, name string, args ...string) ([]byte, error) {
	cmd := command(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s%s", cmd, err, out, stderr.String())
	}
	return out, nil
}

// nextApp installs what a web application with the framework next depends on. The
// lock file has the versions and digests of all packages, but not where they are from.
func nextApp(ctx context.Context, version, dir string) error {
	project, err := fs.Sub(npmProjects, "pairs/next-"+version)
	if err != nil {
		return err
	}
	if err := os.CopyFS(dir, project); err != nil {
		return err
	}
	_, err = runIn(ctx, dir, nil, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	return err
}

// caddy builds a web server, of which each version requires other versions of its
// dependencies too.
func caddy(ctx context.Context, version, dir string) error {
	env := []string{"CGO_ENABLED=0", "GOBIN=" + dir}
	_, err := runIn(ctx, "", env, "go", "install", "-trimpath", "-ldflags", "-s -w", "github.com/caddyserver/caddy/v2/cmd/caddy@"+version)
	return err
}

// goToolchain copies a release of Go out of the module cache.
func goToolchain(ctx context.Context, version, dir string) error {
	out, err := runIn(ctx, "", nil, "go", "mod", "download", "-json", "golang.org/toolchain@v0.0.1-go"+version+".linux-amd64")
	if err != nil {
		return err
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		return fmt.Errorf("parse the output of go mod download: %w", err)
	}
	_, err = runIn(ctx, "", nil, "sh", "-ec", `cp -r "$1" "$2"; chmod -R u+w "$2"`, "sh", module.Dir, dir)
	return err
}

// debianPair returns the two newest versions of a package, or those that an earlier run
// has kept, since the archive keeps only some. Without any, it has empty versions.
func debianPair(ctx context.Context, cache, name string) pair {
	p := pair{name: "Debian package " + name, programs: []string{"apt-get", "dpkg-deb"}}
	p.get = func(ctx context.Context, version, dir string) error {
		download := dir + ".deb"
		if err := os.Mkdir(download, 0o777); err != nil {
			return err
		}
		if _, err := runIn(ctx, download, nil, "apt-get", "download", name+"="+version); err != nil {
			return err
		}
		_, err := runIn(ctx, download, nil, "sh", "-ec", `dpkg-deb -x ./*.deb "$1"`, "sh", dir)
		return err
	}
	kept, err := filepath.Glob(filepath.Join(cache, p.directory(), "[0-9]*"))
	if err == nil && len(kept) == 2 {
		p.versions = [2]string{filepath.Base(kept[0]), filepath.Base(kept[1])}
		if _, err := runIn(ctx, "", nil, "dpkg", "--compare-versions", p.versions[0], "gt", p.versions[1]); err == nil {
			p.versions[0], p.versions[1] = p.versions[1], p.versions[0]
		}
		return p
	}
	out, err := runIn(ctx, "", nil, "apt-cache", "madison", name)
	if err != nil {
		return p
	}
	var versions []string // newest first
	for line := range strings.Lines(string(out)) {
		if cells := strings.Split(line, "|"); len(cells) == 3 {
			versions = append(versions, strings.TrimSpace(cells[1]))
		}
	}
	if len(versions) >= 2 {
		p.versions = [2]string{versions[1], versions[0]}
	}
	return p
}
