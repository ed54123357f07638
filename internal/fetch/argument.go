package fetch

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/fujiwara/stretcher/internal/redact"
	"github.com/fujiwara/stretcher/internal/unixfs"
)

// ArgumentURL returns the URL of the object that an argument of a command line
// names: the argument itself, or the file URL of the regular file at this path. The
// error for one that is neither does not contain its secrets.
func ArgumentURL(arg string) (string, error) {
	text := strings.TrimSpace(arg)
	scheme, _, isURL := cutScheme(text)
	isURL = isURL && !strings.ContainsAny(text, "\r\n")
	if isURL && knownScheme(scheme) {
		return text, nil
	}
	shown := redact.URL(arg)
	info, err := os.Stat(arg)
	if err != nil && isURL {
		return "", fmt.Errorf("%.200q: %w", shown, unknownScheme(scheme))
	}
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		err = failed.Err // the path is quoted already
	}
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	}
	if err != nil {
		return "", fmt.Errorf("%.200q is neither a URL (s3://, gs://, http://, https:// or file://) nor the path of a file: %w", shown, err)
	}
	path, err := absolute(arg)
	if err != nil {
		return "", fmt.Errorf("%.200q: %w", shown, err)
	}
	return (&url.URL{Scheme: "file", Path: path}).String(), nil
}

// absolute is filepath.Abs with the kernel's meaning of "..".
func absolute(path string) (string, error) {
	if !filepath.IsAbs(path) {
		dir, err := os.Getwd()
		if err != nil {
			return "", err
		}
		path = dir + "/" + path // filepath.Join would remove ".."
	}
	return unixfs.CleanPath(path), nil
}
