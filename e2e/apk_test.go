package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

// testAPK looks at a package for Alpine, whose package manager Debian does not have, and
// unpacks it. It consists of two tars, which are compressed one after the other: that of
// .PKGINFO and the scripts, and that of the files (see apk-package(5)).
func testAPK(t *testing.T, path string) {
	h := newHost(t)
	pkg := read(t, path)
	control, controlSize := gunzipFirst(t, pkg)
	data, dataSize := gunzipFirst(t, pkg[controlSize:])
	if controlSize+dataSize != len(pkg) {
		t.Fatalf("%d bytes of control and %d of data are not all %d", controlSize, dataSize, len(pkg))
	}

	about := map[string]string{}
	wantScripts := map[string]string{".post-install": "reload.sh", ".pre-deinstall": "remove.sh", ".post-deinstall": "reload.sh"}
	for _, f := range readTar(t, control) {
		script, isScript := wantScripts[f.Name]
		delete(wantScripts, f.Name)
		switch {
		case f.Name == ".PKGINFO":
			for line := range strings.Lines(string(f.content)) {
				if key, value, ok := strings.Cut(strings.TrimSpace(line), " = "); ok {
					about[key] = value
				}
			}
		case !isScript || !bytes.Equal(f.content, read(t, "../packaging/"+script)) || f.Mode&0o111 != 0o111:
			t.Errorf("the control has %s, with mode %o", f.Name, f.Mode)
		}
	}
	for name := range wantScripts {
		t.Errorf("the control lacks %s", name)
	}
	size := int64(0)
	files := map[string]*tarFile{}
	for _, f := range readTar(t, data) {
		files[strings.TrimSuffix(f.Name, "/")] = f
		size += f.Size
		if f.Uid != 0 || f.Gid != 0 || f.Uname != "root" || f.Gname != "root" || f.Mode&0o022 != 0 {
			t.Errorf("%s belongs to %d:%d (%s:%s), with mode %o", f.Name, f.Uid, f.Gid, f.Uname, f.Gname, f.Mode)
		}
		if sum := fmt.Sprintf("%x", sha1.Sum(f.content)); f.Typeflag == tar.TypeReg && f.PAXRecords["APK-TOOLS.checksum.SHA1"] != sum {
			t.Errorf("%s has the checksum %s, want %s", f.Name, f.PAXRecords["APK-TOOLS.checksum.SHA1"], sum)
		}
	}
	for name, mode := range packaged {
		if f := files[name]; f == nil || f.FileInfo().Mode() != mode {
			t.Errorf("it lacks %s with the mode %v: %+v", name, mode, f)
		}
	}
	for key, want := range map[string]string{
		"pkgname": "stretcher", "pkgver": "1.2.3", "arch": "x86_64", "license": "MIT", "maintainer": "Tester <tester@example.org>",
		"size": fmt.Sprint(size), "datahash": fmt.Sprintf("%x", sha256.Sum256(pkg[controlSize:])), "depend": "",
	} {
		if about[key] != want {
			t.Errorf("%s is %q, want %q", key, about[key], want)
		}
	}

	root := h.path("root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	output(t, h.command("tar", "-C", root, "-xzf", path, "--ignore-zeros", "--no-same-owner", "--warning=none"))
	wantVersion(t, h, root, "1.2.3")
	wantUsable(t, h, root)
	wantPackagedUnit(t, root+"/usr/lib/systemd/system/stretcher-consul.service")
}

// gunzipFirst decompresses the first gzip member of data, and returns its compressed
// size.
func gunzipFirst(t *testing.T, data []byte) (content []byte, size int) {
	t.Helper()
	r := bytes.NewReader(data) // from which no byte too many is read
	z, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	z.Multistream(false)
	content, err = io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return content, len(data) - r.Len()
}

// tarFile is a file in a tar.
type tarFile struct {
	*tar.Header
	content []byte
}

func readTar(t *testing.T, data []byte) (files []*tarFile) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, &tarFile{header, content})
	}
}
