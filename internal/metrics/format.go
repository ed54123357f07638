package metrics

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// file is the metrics by their names, in the text format of Prometheus
// (https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format).
type file map[string]*metric

// metric is what the file has of one metric.
type metric struct {
	head   string            // the lines with its help text and its type
	series map[string]string // values by labels, both as the file has them
}

// The types of metrics.
const (
	gauge   = "gauge"
	counter = "counter"
)

// metric returns the metric with a name, which it adds if the file has none.
func (f file) metric(name string) *metric {
	if f[name] == nil {
		f[name] = &metric{series: map[string]string{}}
	}
	return f[name]
}

// text returns the text of the file. The order of the series does not change from one
// deployment to the next.
func (f file) text() []byte {
	var text []byte
	for _, name := range slices.Sorted(maps.Keys(f)) {
		m := f[name]
		if len(m.series) == 0 {
			continue
		}
		text = append(text, m.head...)
		for _, labels := range slices.Sorted(maps.Keys(m.series)) {
			text = append(text, name+"{"+labels+"} "+m.series[labels]+"\n"...)
		}
	}
	return text
}

// parse parses the text of a file. It is not ok if there is anything in it that this
// package does not write; a metric that only another version knows is kept.
func parse(data []byte) (f file, ok bool) {
	if len(data) > maxFile || !utf8.Valid(data) {
		return nil, false
	}
	f = file{}
	for line := range strings.Lines(string(data)) {
		line, whole := strings.CutSuffix(line, "\n")
		if !whole || !f.addHead(line) && !f.addSeries(line) {
			return nil, false
		}
	}
	return f, true
}

// addHead adds a line "# HELP name text" or "# TYPE name type".
func (f file) addHead(line string) bool {
	words := strings.SplitN(line, " ", 4)
	if len(words) < 4 || words[0] != "#" || !isMetricName(words[2]) {
		return false
	}
	isHelp, isType := words[1] == "HELP", words[1] == "TYPE" && (words[3] == gauge || words[3] == counter)
	if !isHelp && !isType {
		return false
	}
	f.metric(words[2]).head += line + "\n"
	return true
}

// addSeries adds a line "name{labels} value".
func (f file) addSeries(line string) bool {
	name, rest, _ := strings.Cut(line, "{")
	labels, value, ok := cutLabels(rest)
	value, separated := strings.CutPrefix(value, " ")
	if _, err := strconv.ParseFloat(value, 64); !ok || !separated || err != nil || !isMetricName(name) {
		return false
	}
	f.metric(name).series[labels] = value
	return true
}

func isMetricName(name string) bool { return strings.HasPrefix(name, prefix) && isName(name) }

// isName reports whether a text is a name as this package gives metrics and labels.
func isName(name string) bool {
	return name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

// labels returns the text of labels, which are names and values.
func labels(namesAndValues ...string) string {
	var text strings.Builder
	escape := strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
	for i := 0; i < len(namesAndValues); i += 2 {
		if i > 0 {
			text.WriteByte(',')
		}
		text.WriteString(namesAndValues[i] + `="` + escape.Replace(strings.ToValidUTF8(namesAndValues[i+1], "\ufffd")) + `"`)
	}
	return text.String()
}

// cutLabels cuts a text after the brace that closes labels. It is not ok if there is
// no label, or one in another form than that of function labels.
func cutLabels(text string) (labels, rest string, ok bool) {
	for rest = text; ; {
		if _, rest, ok = cutLabel(rest); !ok {
			return "", "", false
		}
		if after, closed := strings.CutPrefix(rest, "}"); closed {
			return text[:len(text)-len(rest)], after, true
		}
		if rest, ok = strings.CutPrefix(rest, ","); !ok {
			return "", "", false
		}
	}
}

// cutLabel cuts a text after its first label.
func cutLabel(text string) (label, rest string, ok bool) {
	name, value, _ := strings.Cut(text, `="`)
	if !isName(name) {
		return "", "", false
	}
	for i := 0; i < len(value); i++ {
		switch value[i] {
		case '"':
			end := len(text) - len(value) + i + 1
			return text[:end], text[end:], true
		case '\\':
			if i++; i == len(value) || !strings.Contains(`\n"`, value[i:i+1]) {
				return "", "", false
			}
		}
	}
	return "", "", false
}
