package yamlfields

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// parse returns the root of the first document of data, or nil where there is none or it
// is invalid.
func (d *decoder) parse() *yaml.Node {
	documents := yaml.NewDecoder(bytes.NewReader(d.data))
	root, err := next(documents)
	if err == io.EOF {
		return nil
	}
	if err != nil {
		d.syntaxError(err)
		return nil
	}
	// Anything but empty documents is a second one, or text behind the end of the
	// first, which is ignored even if it is invalid.
	for second, err := next(documents); err != io.EOF; second, err = next(documents) {
		if err != nil {
			d.warnings.add(Document, d.end(root), secondDocument)
			break
		}
		if !isNull(second) {
			d.warnings.add(Document, second.Line, secondDocument)
			break
		}
	}
	return root
}

const secondDocument = "a second YAML document" + ignored

// end returns the line where the document of root ends, or that of root if there
// is no line that says so.
func (d *decoder) end(root *yaml.Node) int {
	for line := root.Line + 1; line <= len(d.source()); line++ {
		if isMarker(string(d.source()[line-1])) {
			return line
		}
	}
	return root.Line
}

// isMarker reports whether a line begins or ends a document.
func isMarker(line string) bool {
	if !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "...") {
		return false
	}
	return len(line) == 3 || isBlank(line[3])
}

// source returns the lines of data. They are runes, as the columns of nodes are.
func (d *decoder) source() [][]rune {
	if d.lines == nil {
		for line := range bytes.SplitSeq(bytes.TrimPrefix(d.data, []byte("\xef\xbb\xbf")), []byte("\n")) {
			d.lines = append(d.lines, []rune(string(line)))
		}
	}
	return d.lines
}

// next returns the root of the next document, or io.EOF.
func next(documents *yaml.Decoder) (root *yaml.Node, err error) {
	// The parser panics when it finds that its own state is inconsistent. No
	// document may end the agent.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("yaml: %w", errParser)
		}
	}()
	var document yaml.Node
	if err := documents.Decode(&document); err != nil {
		return nil, err
	}
	return document.Content[0], nil
}

var errParser = errors.New("the YAML parser does not support this document")

// maxSearch is the size of the longest document in which the line of a syntax
// error is searched for.
const maxSearch = 64 << 10

// syntaxError adds an error of the parser to the problems.
//
// The parser often gives no line, or the one where the enclosing block begins, or
// the one before. So search for the shortest part of data, in whole lines from
// its start, that the parser refuses in the same words.
func (d *decoder) syntaxError(err error) {
	at, words := splitError(err)
	lines := bytes.SplitAfter(d.data, []byte("\n"))
	line := 1
	if len(d.data) <= maxSearch {
		ends := make([]int, len(lines))
		for i, end := 0, 0; i < len(lines); i++ {
			end += len(lines[i])
			ends[i] = end
		}
		line += sort.Search(len(lines)-1, func(i int) bool {
			_, err := next(yaml.NewDecoder(bytes.NewReader(d.data[:ends[i]])))
			if err == nil {
				return false
			}
			_, w := splitError(err)
			return w == words
		})
	} else {
		line = min(max(at, 1), len(lines))
	}
	d.problems.add(problem, line, "%s", reword(words, lines[line-1]))
}

// splitError returns what an error of the parser says, and its line, 0 if it names
// none.
func splitError(err error) (line int, words string) {
	words = strings.TrimPrefix(err.Error(), "yaml: ")
	if place, rest, ok := strings.Cut(words, ": "); ok && strings.HasPrefix(place, "line ") {
		if n, err := strconv.Atoi(place[len("line "):]); err == nil {
			return n, rest
		}
	}
	return 0, words
}

// reword returns a text for an error of the parser, which is a constant but for
// the name of an anchor, and the line that it is about.
func reword(words string, line []byte) string {
	text := bytes.TrimLeft(line, " -")
	if i := bytes.Index(line, []byte(": ")); i >= 0 && !bytes.HasPrefix(bytes.TrimLeft(line, " "), []byte("-")) {
		text = bytes.TrimLeft(line[i+1:], " ")
	}
	switch {
	case strings.Contains(words, "tab character"),
		words == "found character that cannot start any token" && bytes.HasPrefix(bytes.TrimLeft(line, " -"), []byte("\t")):
		return "a TAB: YAML is indented by spaces"
	case words == "found character that cannot start any token":
		return "put a text that begins with @, % or a backquote in quotes"
	case strings.HasPrefix(words, "unknown anchor "):
		return "an alias (*) without its anchor (&) above it: put a text that begins with * in quotes"
	case strings.HasPrefix(words, "did not find expected") && matches(afterQuotes, text):
		return "text after a closing quote: put the whole text in one pair of quotes"
	case strings.HasPrefix(words, "did not find expected") && matches(afterBracket, text):
		return "text after a ] or }: put a text that begins with [ or { in quotes"
	case words == "did not find expected alphabetic or numeric character":
		return "a * or & without a name after it: put a text that begins with one in quotes"
	case words == "mapping values are not allowed in this context":
		return `a ": " is not allowed here: put a text with ": " in it in quotes, or check the indentation`
	case words == "did not find expected comment or line break":
		return "a | or > with a text after it: put a text that begins with one in quotes"
	case strings.HasPrefix(words, "did not find expected key"), strings.HasPrefix(words, "did not find expected '-' indicator"):
		return "expected a key, or an item of a list: check the indentation and the quotes"
	case words == "could not find expected ':'" && lacksBlank(strings.TrimLeft(string(line), " ")):
		return "put a blank after the - of an item"
	case words == "could not find expected ':'":
		return `expected a key with ":" after it`
	case words == "found unexpected end of stream":
		return "a quote that is opened is never closed"
	case strings.HasPrefix(words, "did not find expected ',' or"), words == "did not find expected node content":
		return "a [ or { is never closed, or a text in it needs quotes"
	case words == "control characters are not allowed", strings.Contains(words, "UTF-8"), strings.Contains(words, "UTF-16"):
		return "characters that are not text (is it a manifest at all?)"
	}
	return words
}

const (
	// afterBracket matches a list or a map in one line with something behind it.
	afterBracket = `^[\[{].*[\]}]\s*[^\s#:,\]}]`
	// afterQuotes matches a text in quotes with something behind it.
	afterQuotes = `^(?:"(?:[^"\\]|\\.)*"|'(?:[^']|'')*')\s*[^\s#:]`
)

// matches compiles the pattern, for a document that is refused.
func matches(pattern string, text []byte) bool { return regexp.MustCompile(pattern).Match(text) }
