package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/fujiwara/stretcher/internal/redact"
)

// maxPassword is the size that a line with a password may have, in bytes.
const maxPassword = 4 << 10

// readPassword returns the password of a secret key: the first line of the file, or,
// where none is named, what is typed at the terminal.
func readPassword(ctx context.Context, file, key string) (string, error) {
	if file == "" {
		return askPassword(ctx, fmt.Sprintf("Password of %s: ", redact.Printable(key)))
	}
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("password file: %w", err)
	}
	defer f.Close()
	line, err := bufio.NewReader(io.LimitReader(f, maxPassword)).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("password file: %w", err)
	}
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", fmt.Errorf("password file %q: its first line is empty", file)
	}
	return line, nil
}

// askPassword asks for a password at the terminal, which does not show it.
func askPassword(ctx context.Context, prompt string) (string, error) {
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return "", errors.New("it has a password, and stdin is not a terminal: give -password-file FILE")
	}
	terminal := int(os.Stdin.Fd())
	before, err := term.GetState(terminal)
	if err != nil {
		return "", err
	}
	type answer struct {
		password []byte
		err      error
	}
	answers := make(chan answer, 1)
	fmt.Fprint(os.Stderr, prompt)
	defer fmt.Fprintln(os.Stderr)
	go func() {
		password, err := term.ReadPassword(terminal)
		answers <- answer{password, err}
	}()
	select {
	case a := <-answers:
		return string(a.password), a.err
	case <-ctx.Done():
		// The read goes on. Without this, the terminal would show nothing that is
		// typed after the program has ended.
		return "", errors.Join(context.Cause(ctx), term.Restore(terminal, before))
	}
}
