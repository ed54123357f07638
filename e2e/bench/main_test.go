package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fujiwara/stretcher/e2e/bench/report"
	"github.com/fujiwara/stretcher/e2e/bench/setup"
)

// Each part runs on a hundredth of its data, and has a figure for each of its goals.
func TestParts(t *testing.T) {
	t.Parallel()
	agent, err := setup.Agent(t.Context(), "../..", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			b := &bench{agent: agent, runs: 1, scale: 100, cache: t.TempDir()}
			for _, g := range report.Goals {
				if g.Part == "bytes" && !strings.HasPrefix(g.Case, "Go tree") {
					b.pairs = append(b.pairs, pair{name: g.Case, programs: []string{"sh"}, versions: [2]string{"1", "2"}, get: oneFile})
				}
			}
			if err := b.measure(t.Context(), t.TempDir(), p); err != nil {
				t.Fatal(err)
			}
			for _, g := range report.Goals {
				if _, ok := b.part.Results[g.Case]; g.Part == p.name && !ok && b.part.Missing[g.Case] == "" {
					t.Errorf("there is no figure for %s", g.Case)
				}
			}
		})
	}
}

func oneFile(_ context.Context, version, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "file"), []byte("version "+version+"\n"), 0o644)
}

// A pair that cannot be fetched is not measured, and does not end the others.
func TestPairNotFetched(t *testing.T) {
	t.Parallel()
	p := pair{name: "a, pair", programs: []string{"sh"}, versions: [2]string{"1", "2"}}
	p.get = func(_ context.Context, version, dir string) error {
		if version == "2" {
			return os.ErrDeadlineExceeded
		}
		return oneFile(t.Context(), version, dir)
	}
	cache := t.TempDir()
	if _, err := p.directories(t.Context(), cache); err == nil {
		t.Fatal("no error")
	}
	left, err := filepath.Glob(filepath.Join(cache, "*", "*"))
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != "1" {
		t.Fatalf("the cache has %q, %v", left, err)
	}
	p.get = oneFile
	dirs, err := p.directories(t.Context(), cache)
	if err != nil || dirs[0] != left[0] || filepath.Base(dirs[1]) != "2" {
		t.Fatalf("%q, %v", dirs, err)
	}
}
