package stretcher_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

// The tables of docs/scale.md are computed from what it states. If this fails, copy the
// lines that it prints, or correct the assumptions.
func TestDocsScaleArithmetic(t *testing.T) {
	t.Parallel()
	page := docs(t)["docs/scale.md"]
	for _, row := range append(originRows(), gossipRows()...) {
		if !strings.Contains(page, row+"\n") {
			t.Errorf("docs/scale.md lacks\n%s", row)
		}
	}
	for _, stated := range []string{
		"an archive of 100 MB", "downloads 2 MB of it", "`-max-bandwidth 10MB`", "14 requests", "5 requests",
		"3 random members every 200 ms", "4 × ⌈log10(N + 1)⌉ times",
		fmt.Sprintf("5,000 hosts with D = 10 min, %.0f within 5 s", 5000*5/600.0),
		fmt.Sprintf("missing, %.1f %%", 100*5/600.0),
		fmt.Sprintf("a probability of %.0f %%, 1 − (1 − 9 × 5 / 600)^10", 100*(1-math.Pow(1-9*5/600.0, 10))),
		fmt.Sprintf("200 hosts that take 30 s each, 10 at a time, %d minutes", 200*30/10/60),
		fmt.Sprintf("are %s for 200 hosts, and %s for 5,000", thousands(200*200/2), thousands(5000*5000/2)),
		fmt.Sprintf("5,000 hosts in 10 minutes are %.0f writes per second", 5000/600.0),
	} {
		if !strings.Contains(page, stated) {
			t.Errorf("docs/scale.md does not state %q", stated)
		}
	}
}

// originRows compute the load of the origin: the hosts start at a random time within a
// window that is at least as long as a download.
func originRows() []string {
	const (
		archive, upgrade                 = 100e6, 2e6 // bytes
		bandwidth                        = 10e6       // bytes per second and host
		archiveRequests, upgradeRequests = 14, 5
	)
	var rows []string
	for _, c := range []struct {
		hosts, window float64
		name          string
	}{
		{200, 10, "10 s"}, {200, 60, "1 min"},
		{5000, 10, "10 s"}, {5000, 600, "10 min"},
		{50000, 600, "10 min"}, {50000, 3600, "1 h"},
	} {
		gigabits := func(bytes float64) string { return significant(c.hosts * bytes * 8 / c.window / 1e9) }
		rows = append(rows, fmt.Sprintf("| %s | %s | %s GB | %s Gbit/s | %s | %s | %s GB | %s Gbit/s | %s |",
			thousands(c.hosts), c.name,
			significant(c.hosts*archive/1e9), gigabits(archive),
			thousands(c.hosts*archive/bandwidth/c.window), significant(c.hosts*archiveRequests/c.window),
			significant(c.hosts*upgrade/1e9), gigabits(upgrade), significant(c.hosts*upgradeRequests/c.window)))
	}
	return rows
}

// gossipRows compute how an event spreads: every 200 ms, each member that has it sends it
// to 3 random ones, until it has sent it 4*ceil(log10(N+1)) times.
func gossipRows() []string {
	var rows []string
	for _, members := range []float64{200, 5000, 50000} {
		copies := 4 * math.Ceil(math.Log10(members+1))
		row := fmt.Sprintf("| %s | %.0f |", thousands(members), copies)
		for _, loss := range []float64{0, 0.1} {
			// informed[i] is the number of members that received it in round i.
			informed, missing := []float64{1}, members-1
			half, all := 0, 0
			for round := 1; round <= 40; round++ {
				var sent float64
				for i, n := range informed {
					// In round i+1, they begin to send.
					left := copies - 3*float64(round-i-1)
					sent += n * min(3, max(0, left))
				}
				now := missing * (1 - math.Exp(-sent*(1-loss)/members))
				informed = append(informed, now)
				missing -= now
				if half == 0 && missing < members/2 {
					half = round
				}
				if all == 0 && missing < 1 {
					all = round
				}
			}
			row += fmt.Sprintf(" %.1f s | %.1f s | %s |", 0.2*float64(half), 0.2*float64(all), significant(missing))
		}
		multiplier := math.Ceil(math.Log2(members)-math.Log2(32)) + 1
		rows = append(rows, row+fmt.Sprintf(" %.1f min |", 30*multiplier/60))
	}
	return rows
}

// significant formats a number with two significant digits.
func significant(n float64) string {
	if n >= 100 {
		return thousands(math.Round(n/math.Pow(10, math.Floor(math.Log10(n))-1)) * math.Pow(10, math.Floor(math.Log10(n))-1))
	}
	if n < 0.001 {
		return "< 0.001"
	}
	digits := max(0, 1-int(math.Floor(math.Log10(n))))
	return fmt.Sprintf("%.*f", digits, n)
}

// thousands formats a whole number with commas.
func thousands(n float64) string {
	s := fmt.Sprintf("%.0f", n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
