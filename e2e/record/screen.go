package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// screen is a terminal that remembers everything it has shown, and when. It knows what a
// program needs that prints lines and updates the last one: no colours, no movement upwards.
type screen struct {
	columns, rows int
	now           time.Duration
	lines         []line // all, those that have been scrolled off the top too
	row, column   int    // of the cursor
}

// line is a line of the screen: what it has shown, by when that began.
type line struct {
	text     []rune
	versions []shown
}

type shown struct {
	at   time.Duration
	text string
}

func newScreen(columns, rows int) *screen {
	return &screen{columns: columns, rows: rows, lines: make([]line, 1)}
}

// wait lets the time pass.
func (s *screen) wait(d time.Duration) { s.now += d.Round(10 * time.Millisecond) }

// write shows text.
func (s *screen) write(text string) {
	for len(text) > 0 {
		switch {
		case strings.HasPrefix(text, "\x1b[K"): // to the end of the line
			l := &s.lines[s.row]
			l.text = l.text[:min(len(l.text), s.column)]
			text = text[3:]
			continue
		case text[0] == '\r':
			s.column = 0
			text = text[1:]
			continue
		case text[0] == '\n':
			s.nextLine()
			text = text[1:]
			continue
		}
		r := []rune(text)[0]
		text = text[len(string(r)):]
		if s.column == s.columns {
			s.nextLine()
			s.column = 0
		}
		l := &s.lines[s.row]
		for len(l.text) <= s.column {
			l.text = append(l.text, ' ')
		}
		l.text[s.column] = r
		s.column++
	}
	s.keep()
}

func (s *screen) nextLine() {
	s.keep()
	if s.row++; s.row == len(s.lines) {
		s.lines = append(s.lines, line{})
		s.keep() // it scrolls, even if it stays empty
	}
}

// keep remembers what the line of the cursor shows now.
func (s *screen) keep() {
	l := &s.lines[s.row]
	text := strings.TrimRight(string(l.text), " ")
	if n := len(l.versions); n > 0 && l.versions[n-1].at == s.now {
		l.versions[n-1].text = text
	} else if n == 0 || l.versions[n-1].text != text {
		l.versions = append(l.versions, shown{s.now, text})
	}
}

const (
	fontSize   = 14.0
	cellWidth  = 8.43 // of DejaVu Sans Mono, Menlo and Consolas, nearly
	lineHeight = 19.0
	margin     = 16.0
	title      = 30.0
)

// svg draws what the screen has shown. All lines lie below each other. Each version of a
// line has an animation that shows it during its time, and another animation scrolls the
// whole. A program that does not animate shows the last screen.
func (s *screen) svg() []byte {
	width, height := 2*margin+cellWidth*float64(s.columns), title+margin+lineHeight*float64(s.rows)
	var styles, texts bytes.Buffer
	end := s.now
	percent := func(at time.Duration) string { return fmt.Sprintf("%.2f%%", 100*float64(at)/float64(end)) }
	names := map[string]string{} // of animations, by what they do
	for row, l := range s.lines {
		for i, v := range l.versions {
			if v.text == "" {
				continue
			}
			last := i+1 == len(l.versions)
			frames := "0%{visibility:hidden}" + percent(v.at) + "{visibility:visible}"
			class := ""
			if !last {
				frames += percent(l.versions[i+1].at) + "{visibility:hidden}"
				class = "h "
			}
			name, ok := names[frames]
			if !ok {
				name = fmt.Sprintf("k%d", len(names))
				names[frames] = name
				fmt.Fprintf(&styles, "@keyframes %s{%s}.%s{animation-name:%s}\n", name, frames, name, name)
			}
			fmt.Fprintf(&texts, `<text class="%s" y="%g" textLength="%g">%s</text>`+"\n", class+name,
				lineHeight*float64(row+1)-5, cellWidth*float64(len([]rune(v.text))), marked(v.text))
		}
	}
	styles.WriteString("@keyframes scroll{" + s.scrolling(percent) + "}\n")

	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%g" height="%g" viewBox="0 0 %[1]g %[2]g" role="img" aria-label="Recording of a terminal: a release is packed and deployed, upgraded by its difference, and rolled back">
<style>
text{font:%gpx ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#d8dee9;white-space:pre}
.h{visibility:hidden}
.c{fill:#8fbcff;font-weight:bold}.e{fill:#ff8c8c}.w{fill:#ffd479}.g{fill:#a3d9a5}
text,.scroll{animation-duration:%gs;animation-timing-function:step-end;animation-iteration-count:infinite}
.scroll{transform:translateY(%gpx);animation-name:scroll}
@media (prefers-reduced-motion){text,.scroll{animation:none}}
%s</style>
<rect width="100%%" height="100%%" rx="8" fill="#1b1f27" stroke="#5a6270"/>
<circle cx="20" cy="17" r="6" fill="#ff5f57"/><circle cx="40" cy="17" r="6" fill="#febc2e"/><circle cx="60" cy="17" r="6" fill="#28c840"/>
<svg x="%g" y="%g" width="%g" height="%g" overflow="hidden"><g class="scroll">
%s</g></svg>
</svg>
`, width, height, fontSize, end.Seconds(), -lineHeight*float64(max(0, len(s.lines)-s.rows)), styles.String(),
		margin, title, width-2*margin, lineHeight*float64(s.rows), texts.String())
	return b.Bytes()
}

// scrolling returns the frames of the animation that keeps the last line in sight.
func (s *screen) scrolling(percent func(time.Duration) string) string {
	var frames []string
	for row := s.rows; row < len(s.lines); row++ {
		at := percent(s.lines[row].versions[0].at)
		// Lines that come at the same time scroll at once.
		frames = slices.DeleteFunc(frames, func(f string) bool { return strings.HasPrefix(f, at+"{") })
		frames = append(frames, fmt.Sprintf("%s{transform:translateY(%gpx)}", at, -lineHeight*float64(row+1-s.rows)))
	}
	return "0%{transform:none}" + strings.Join(frames, "")
}

var highlights = regexp.MustCompile(`^\$ .*|\[ERROR\].*|\[WARN\].*|Fetched .* in|Deploy manifest succeeded\.`)

// marked returns text as XML, with its important parts in colours.
func marked(text string) string {
	var b strings.Builder
	escape := func(s string) {
		xml.EscapeText(&b, []byte(s)) // to a builder, it never fails
	}
	end := 0
	for _, at := range highlights.FindAllStringIndex(text, -1) {
		escape(text[end:at[0]])
		class := "g"
		switch {
		case at[0] == 0 && strings.HasPrefix(text, "$ "):
			class = "c"
		case strings.HasPrefix(text[at[0]:], "[ERROR]"):
			class = "e"
		case strings.HasPrefix(text[at[0]:], "[WARN]"):
			class = "w"
		}
		fmt.Fprintf(&b, `<tspan class="%s">`, class)
		escape(text[at[0]:at[1]])
		b.WriteString("</tspan>")
		end = at[1]
	}
	escape(text[end:])
	return b.String()
}
