package main

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/sys/unix"

	"github.com/fujiwara/stretcher/internal/ptytest"
)

// The password of a key is typed at the terminal, which shows what is typed again
// afterwards, also after an interrupt.
func TestPasswordAtTerminal(t *testing.T) {
	t.Parallel()
	script, err := txtar.ParseFile("testdata/pack_sign.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, typed := range []string{"s3cret word\n", "another\n", ""} {
		master, terminal := ptytest.Open(t)
		echoes := func(want bool) {
			t.Helper()
			for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				termios, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
				if err != nil {
					t.Fatal(err)
				}
				if (termios.Lflag&unix.ECHO != 0) == want {
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("the terminal shows what is typed: %v", !want)
				}
			}
		}
		w := newWorld(t)
		for _, f := range script.Files {
			w.write(f.Name, string(f.Data))
		}
		cmd := exec.Command("stretcher", "pack", "-manifest", "v1.yml", "-manifest-from", "template.yml", "-sign", "encrypted.key", "v1")
		cmd.Dir, cmd.Stdin, cmd.Stderr = w.dir, terminal, terminal
		cmd.Env = append(os.Environ(), "WORK="+w.dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill() })
		seen := ptytest.Read(t, master, "Password of encrypted.key: ", 1)
		echoes(false)
		if typed == "" {
			err = cmd.Process.Signal(syscall.SIGINT)
		} else {
			_, err = master.WriteString(typed)
		}
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"s3cret word\n": "Packed v1", "another\n": "wrong password", "": `secret key "encrypted.key": interrupted by SIGINT`}[typed]
		seen += ptytest.Read(t, master, want, 1)
		err := cmd.Wait()
		_, missing := os.Stat(w.path("v1.yml.minisig"))
		if ok := typed == "s3cret word\n"; ok != (err == nil) || ok != (missing == nil) {
			t.Errorf("with %q: %v, %v: %s", typed, err, missing, seen)
		}
		echoes(true)
		if typed != "" && strings.Contains(seen, strings.TrimSpace(typed)) {
			t.Errorf("the terminal showed the password: %q", seen)
		}
	}
}
