package report

import (
	"fmt"
	"strings"
)

// pictures are the plots of the page, in order.
var pictures = []picture{
	{"images/time.svg", "Bars of the time of a deployment, by case", `**Time by case.** Shorter is better. The grey bars are the stages of the original, done by hand: they are the script below, with the archive that most people have, a tar.gz. They are not the original program. The dark bars are the same script with the archive of ` + "`stretcher pack`" + `, and the blue ones are stretcher with this archive and the strategy ` + "`builtin`" + `. The first three groups fetch it from a local file, the others over a link of 100 Mbit/s.`, drawTimes},
	{"images/bytes.svg", "Lines of the bytes that are fetched, by the share of edited files", `**Bytes fetched by share of edited files.** Lower is better, and the scale is logarithmic. At 0 % only the index is fetched. The dark blue line is an archive that was packed with ` + "`-base`" + ` and the version that the host has; the light blue one has no patches for this version, so that whole pieces are fetched. The dashed lines are a download of everything.`, drawShares},
	{"images/pairs.svg", "Bars of the share of an archive that is fetched for the next version", `**The next version of real software.** Shorter is better: the share of the archive that a host fetches which has the version before.`, drawPairs},
	{"images/cost.svg", "Lines of time, CPU time and memory, by the number of files", `**Cost by number of files**, of about 1 KB each, from 1,000 to 100,000. Both axes are logarithmic: a straight line that rises by one decade per decade is a cost in proportion to the number of files. Solid lines are fresh deployments, dashed ones unchanged. The CPU time is that of all processes, and the memory is that of the agent alone, without the rsync that the default strategy starts.`, drawCost},
}

// titles are those of the parts, in their order.
var titles = []struct{ part, title string }{
	{"bytes", "Bytes fetched"},
	{"network", "Time over a network"},
	{"pack", "Packing"},
	{"download", "Downloads"},
	{"deploy", "Time from a local file"},
	{"growth", "Growth with the number of files"},
	{"memory", "Memory"},
	{"window", "How long dest is mixed"},
	{"flush", "Flushing to disk"},
	{"releases", "Releases behind a symlink"},
}

// page returns the page with the given plots.
func (r *Report) page(shown []picture) []byte {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say("# Performance\n")
	say("```sh\nmake bench                                      # measure everything, and write this page\ncd e2e && go run ./bench -only network,deploy   # measure some parts, and print them\n```\n")
	say("The benchmark compares stretcher with the same work done by hand with curl, sha256sum, tar and rsync: on the same data, on the same machine, in alternating runs. Times are medians, with the minimum and the maximum in parentheses. A ratio is that of the medians, so 0.25 means a quarter of the time. This page is written by the program in `e2e/bench`; do not edit it.\n")

	say("## Goals\n")
	rows := [][]string{{"part", "case", "goal", "measured", ""}}
	type reason struct {
		goals []string
		why   string
	}
	var reasons []reason
	counts := map[string]int{}
	for _, g := range Goals {
		o := r.outcome(g)
		counts[o.verdict]++
		rows = append(rows, []string{"[" + g.Part + "](#" + anchor(title(g.Part)) + ")", g.Case, g.String(), o.figure, o.verdict})
		if o.why == "" {
			continue
		}
		// What several goals have in common is said once.
		if n := len(reasons); n == 0 || reasons[n-1].why != o.why {
			reasons = append(reasons, reason{why: o.why})
		}
		last := &reasons[len(reasons)-1]
		last.goals = append(last.goals, fmt.Sprintf("%s, %s (%s, %s)", g.Part, g.Case, g, strings.Trim(o.verdict, "*")))
	}
	say("%d goals: %d met, %d missed, %d not measured.\n", len(Goals), counts[met], counts[missed], counts[notMeasured])
	writeTable(&b, rows)
	if len(reasons) > 0 {
		say("Why goals are missed or not measured:\n")
		for _, r := range reasons {
			say("- %s: %s.", strings.Join(r.goals, "; "), r.why)
		}
		say("")
	}

	say("## Plots\n")
	for _, p := range shown {
		say("![%s](%s)\n\n%s\n", p.alt, p.file, p.text)
	}
	for _, p := range pictures {
		if !contains(shown, p) {
			say("The plot %s is missing, since something in it was not measured.\n", p.file)
		}
	}

	say("## Machine and time\n")
	rows = [][]string{{"", ""}}
	for _, f := range r.Machine {
		rows = append(rows, []string{f.Name, f.Value})
	}
	writeTable(&b, rows)
	say("The load average (of the last 1, 5 and 15 minutes) is that at the beginning of the part. On a machine that does nothing else, it is that of the part before, at most about 2. Where it is higher, other programs took a part of the processors, and only bytes, sizes, memory and, roughly, CPU times count.\n")
	rows = [][]string{{"part", "began (UTC)", "took", "runs", "commit", "load average"}}
	for _, p := range r.Parts {
		rows = append(rows, []string{p.Name, p.Began.UTC().Format("2006-01-02 15:04"), p.Took, fmt.Sprint(p.Runs), p.Commit, p.Load})
	}
	writeTable(&b, rows)

	for _, t := range titles {
		say("## %s\n", t.title)
		p := r.Part(t.part)
		if p == nil {
			say("This part has not run.\n")
			continue
		}
		if p.Problem != "" {
			say("This part is not complete: %s.\n", p.Problem)
		}
		for _, block := range p.Blocks {
			switch {
			case block.Text != "":
				say("%s\n", block.Text)
			case block.Code != "":
				say("```sh\n%s\n```\n", strings.TrimSpace(block.Code))
			default:
				writeTable(&b, block.Table)
			}
		}
	}
	return []byte(strings.TrimSpace(b.String()) + "\n")
}

// title returns the title of a part.
func title(part string) string {
	for _, t := range titles {
		if t.part == part {
			return t.title
		}
	}
	return ""
}

func contains(list []picture, p picture) bool {
	for _, other := range list {
		if other.file == p.file {
			return true
		}
	}
	return false
}

// anchor returns the fragment of the URL of a heading.
func anchor(heading string) string { return strings.ReplaceAll(strings.ToLower(heading), " ", "-") }

// writeTable writes a table, of which the first row has the titles.
func writeTable(b *strings.Builder, rows [][]string) {
	columns := 0
	for _, row := range rows {
		columns = max(columns, len(row))
	}
	for i, row := range rows {
		b.WriteString("|")
		for j := range columns {
			cell := ""
			if j < len(row) {
				cell = strings.ReplaceAll(row[j], "|", `\|`)
			}
			if cell != "" {
				cell = " " + cell
			}
			b.WriteString(cell + " |")
		}
		b.WriteString("\n")
		if i == 0 {
			b.WriteString("|" + strings.Repeat(" --- |", columns) + "\n")
		}
	}
	b.WriteString("\n")
}
