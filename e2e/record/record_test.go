package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestScreen(t *testing.T) {
	s := newScreen(10, 2)
	s.write("$ ")
	s.wait(time.Second)
	s.write("get\r\n")
	s.write("1 of 10\x1b[K\r")
	s.wait(time.Second)
	s.write("10 of 10\x1b[K\r")
	s.wait(time.Second)
	s.write("\x1b[Kdone: <&> and more\r\n")
	want := [][]shown{
		{{0, "$"}, {time.Second, "$ get"}},
		{{time.Second, "1 of 10"}, {2 * time.Second, "10 of 10"}, {3 * time.Second, "done: <&>"}},
		{{3 * time.Second, "and more"}},
		{{3 * time.Second, ""}},
	}
	if len(s.lines) != len(want) {
		t.Fatalf("%d lines, want %d: %v", len(s.lines), len(want), s.lines)
	}
	for i, l := range s.lines {
		if !slices.Equal(l.versions, want[i]) {
			t.Errorf("line %d has shown %v, want %v", i, l.versions, want[i])
		}
	}
	picture := s.svg()
	wantXML(t, picture)
	for _, text := range []string{">done: &lt;&amp;&gt;</text>", "translateY(-38px)", "33.33%{visibility:visible}66.67%{visibility:hidden}"} {
		if !bytes.Contains(picture, []byte(text)) {
			t.Errorf("the picture lacks %s:\n%s", text, picture)
		}
	}
}

// The recording in the documentation is that of the scenario.
func TestRecorded(t *testing.T) {
	picture, err := os.ReadFile("../../docs/images/deployment.svg")
	if err != nil {
		t.Fatal(err)
	}
	wantXML(t, picture)
	for _, c := range scenario {
		if !strings.Contains(string(picture), "$ "+c.line+"</tspan>") {
			t.Errorf("docs/images/deployment.svg does not have the command %q: run make docs", c.line)
		}
	}
	if strings.Contains(string(picture), os.TempDir()) {
		t.Error("docs/images/deployment.svg names the directory of the recording")
	}
}

func TestNeutral(t *testing.T) {
	n := neutral{dir: "/tmp/record-1"}
	now := time.Now()
	name := now.UTC().Truncate(time.Second).Add(2500 * time.Millisecond).Format("20060102T150405.000Z")
	in := now.Format("2006/01/02 15:04:05") + " Starting up stretcher agent v1-2-gab /tmp/record-1/live/" + name
	if got, want := n.replace(in), "2026/12/01 10:00:00 Starting up stretcher agent 1.0.0 /srv/live/20261201T100002.500Z"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func wantXML(t *testing.T, picture []byte) {
	t.Helper()
	for d := xml.NewDecoder(bytes.NewReader(picture)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("the picture is not XML: %v\n%s", err, picture)
		}
	}
}
