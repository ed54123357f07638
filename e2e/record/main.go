// Record runs commands on a pseudoterminal and draws what they print as an animated SVG:
//
//	record -o FILE STRETCHER
//
// The commands are those in scenario.go. They are run for real, by the program
// STRETCHER, in a temporary directory. In the picture, this directory is called /srv, the
// clock begins at a fixed time, and the version is 1.0.0, so that two recordings differ
// only in how long things took.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/creack/pty"
)

const (
	columns, rows = 106, 26
	reading       = 2 * time.Second        // for a command's output, before the next command is typed
	ending        = 5 * time.Second        // for the last screen
	typing        = 100 * time.Millisecond // for four characters
	longest       = 700 * time.Millisecond // that the picture stands still while a command prints nothing
)

func main() {
	output := flag.String("o", "", "the SVG to write")
	flag.Parse()
	if *output == "" || flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: record -o FILE STRETCHER")
		os.Exit(2)
	}
	if err := record(*output, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

func record(output, program string) error {
	program, err := filepath.Abs(program)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "record-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	host, err := newHost(dir, program)
	if err != nil {
		return err
	}
	s := newScreen(columns, rows)
	for i, command := range scenario {
		if i > 0 {
			s.wait(reading)
		}
		if err := host.prepare(command); err != nil {
			return err
		}
		s.write("$ ")
		s.wait(5 * typing)
		for keys := range slices.Chunk([]byte(command.line), 4) {
			s.write(string(keys))
			s.wait(typing)
		}
		s.wait(3 * typing)
		s.write("\r\n")
		if err := host.run(command, s); err != nil {
			return fmt.Errorf("%s: %w", command.line, err)
		}
	}
	s.write("$ ")
	s.wait(ending)
	return os.WriteFile(output, s.svg(), 0o644)
}

// host is the machine of the recording.
type host struct {
	dir string
	env []string
	neutral
}

func newHost(dir, program string) (*host, error) {
	for _, sub := range []string{"bin", "build", "tmp"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Symlink(program, filepath.Join(dir, "bin", "stretcher")); err != nil {
		return nil, err
	}
	return &host{dir: dir, neutral: neutral{dir: dir}, env: []string{
		"PATH=" + filepath.Join(dir, "bin") + ":" + os.Getenv("PATH"),
		"TMPDIR=" + filepath.Join(dir, "tmp"),
		"SOURCE_DATE_EPOCH=1700000000", // so that the archives are always the same
		"TERM=xterm",
	}}, nil
}

// prepare writes the files that the command of the scenario finds.
func (h *host) prepare(c command) error {
	for name, content := range c.files {
		if name == "app.yml" {
			content = strings.ReplaceAll(content, "/srv", h.dir)
		}
		path := filepath.Join(h.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// run runs a command, and writes to s what it prints, when it prints it.
func (h *host) run(c command, s *screen) error {
	// What is /srv in the picture is the temporary directory.
	cmd := exec.Command("sh", "-c", strings.ReplaceAll(c.line, "/srv", h.dir))
	cmd.Dir, cmd.Env = h.dir, h.env
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: columns, Rows: rows})
	if err != nil {
		return err
	}
	defer terminal.Close()
	last := time.Now()
	buf := make([]byte, 64<<10)
	var line strings.Builder // what has arrived of a line
	for {
		n, err := terminal.Read(buf)
		now := time.Now()
		s.wait(min(now.Sub(last), longest))
		last = now
		// What is replaced has no end of line in it.
		line.Write(buf[:n])
		if end := strings.LastIndexAny(line.String(), "\r\n"); end >= 0 {
			text := line.String()
			line.Reset()
			line.WriteString(text[end+1:])
			s.write(h.replace(text[:end+1]))
		}
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.EIO) { // EIO: the command has exited
			break
		}
		if err != nil {
			return err
		}
	}
	s.write(h.replace(line.String()))
	return cmd.Wait()
}
