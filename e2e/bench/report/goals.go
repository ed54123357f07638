package report

import "fmt"

// Goal is what a figure has to be.
type Goal struct {
	Part, Case string
	Unit       Unit
	Limit      float64
	AtLeast    bool // else at most
	// Missed says why a goal is missed, without a full stop at the end. It is on the
	// page only if it is missed.
	Missed string
}

// Unit says what a figure is.
type Unit struct {
	name     string
	decimals int
}

// The units of goals.
var (
	OfByHand  = Unit{"of by hand", 2}
	OfRsync   = Unit{"of rsync", 2}
	OfCurl    = Unit{"of curl and sha256sum", 2}
	OfFresh   = Unit{"of fresh by hand", 2}
	OfGzip    = Unit{"of gzip -6", 3}
	OfArchive = Unit{"% of the archive", 2}
	OfRelease = Unit{"% of the release", 2}
	OfIndex   = Unit{"times the index", 2}
	Growth    = Unit{"times the cost of a file", 2}
	Requests  = Unit{"requests", 0}
	MiB       = Unit{"MiB", 1}
	MBPerCore = Unit{"MB/s and core", 1}
)

func (u Unit) of(value float64) string { return fmt.Sprintf("%.*f %s", u.decimals, value, u.name) }

// String returns the goal in words.
func (g Goal) String() string {
	word := "at most"
	if g.AtLeast {
		word = "at least"
	}
	return fmt.Sprintf("%s %v %s", word, g.Limit, g.Unit.name)
}

// Met says whether a figure reaches the goal.
func (g Goal) Met(value float64) bool {
	if g.AtLeast {
		return value >= g.Limit
	}
	return value <= g.Limit
}

// FindGoal returns the goal for the case of a part, if it has one.
func FindGoal(part, name string) (Goal, bool) {
	for _, g := range Goals {
		if g.Part == part && g.Case == name {
			return g, true
		}
	}
	return Goal{}, false
}

// outcome is what became of a goal.
type outcome struct {
	Goal
	figure, verdict string
	why             string // it was missed or not measured
}

const (
	met         = "met"
	missed      = "**missed**"
	notMeasured = "*not measured*"
)

// outcome compares what was measured with the goal.
func (r *Report) outcome(g Goal) outcome {
	p := r.Part(g.Part)
	if p == nil {
		return outcome{g, "", notMeasured, "this part of the bench has not run"}
	}
	value, ok := p.Results[g.Case]
	switch {
	case ok && g.Met(value):
		return outcome{g, g.Unit.of(value), met, ""}
	case ok && g.Missed == "":
		return outcome{g, g.Unit.of(value), missed, "no reason is known yet"}
	case ok:
		return outcome{g, g.Unit.of(value), missed, g.Missed}
	case p.Missing[g.Case] != "":
		return outcome{g, "", notMeasured, p.Missing[g.Case]}
	case p.Problem != "":
		return outcome{g, "", notMeasured, p.Problem}
	}
	return outcome{g, "", notMeasured, "the bench has no figure for it"}
}

// Count returns how many goals of the parts with the names were missed, and how many
// not measured.
func (r *Report) Count(names []string) (missedGoals, notMeasuredGoals int) {
	for _, name := range names {
		for _, g := range Goals {
			if g.Part != name {
				continue
			}
			switch r.outcome(g).verdict {
			case missed:
				missedGoals++
			case notMeasured:
				notMeasuredGoals++
			}
		}
	}
	return missedGoals, notMeasuredGoals
}

// Why goals are missed on a machine with two processors.
const (
	twice = "the network takes 0.1 s of the time. The host has 233 MB, which the agent reads and hashes twice: once to find out what is missing, " +
		"and once to compare the whole tar with its SHA-256 before anything is put in place. The second time has to be in the order of the tar, on one processor"
	freshPacked = "the agent needs about 0.9 s of processor time to decompress, to hash, and to create 15,036 files. " +
		"Even if both processors shared that perfectly, it would take 0.29 of by hand"
	oneFrame = "what zstd(1) writes is one frame, which only one processor can decompress, and nothing is extracted before the checksum is verified. " +
		"This takes about as long as zstd -dc, a third of what by hand takes"
	gate = "nothing is extracted before the checksum of the archive is verified, so that decompressing and creating the files are one after the other. " +
		"Decompressing alone takes zstd(1) 0.3 to 0.4 s, on one processor; a tmpfs cannot clone what has not changed"
)

// Goals are all that the bench compares figures with, in the order of the page.
var Goals = []Goal{
	// Deploying only what changed, and packing.
	{Part: "bytes", Case: "Go tree, 1 % of the files edited", Unit: OfArchive, Limit: 1.5},
	{Part: "bytes", Case: "Go tree, 1 % of the files edited, requests", Unit: Requests, Limit: 3},
	{Part: "bytes", Case: "node_modules of next 16.4.5 to 16.4.6", Unit: OfArchive, Limit: 15},
	{Part: "bytes", Case: "caddy 2.11.8 to 2.11.9, one binary", Unit: OfArchive, Limit: 20},
	{Part: "bytes", Case: "Go tree, unchanged", Unit: OfIndex, Limit: 1},
	{Part: "network", Case: "1 % changed, builtin", Unit: OfByHand, Limit: 0.10, Missed: twice},
	{Part: "deploy", Case: "unchanged, packed, builtin", Unit: OfByHand, Limit: 0.30},
	{Part: "deploy", Case: "fresh, packed, builtin", Unit: OfByHand, Limit: 0.25, Missed: freshPacked},
	{Part: "pack", Case: "size", Unit: OfGzip, Limit: 1.05},
	{Part: "pack", Case: "speed", Unit: MBPerCore, Limit: 15, AtLeast: true},
	{Part: "memory", Case: "1.5 GB, packed, builtin, fresh", Unit: MiB, Limit: 96},
	{Part: "memory", Case: "1.5 GB, packed, builtin, unchanged", Unit: MiB, Limit: 96},
	{Part: "memory", Case: "1.5 GB, packed, builtin, 1 % changed", Unit: MiB, Limit: 96},
	{Part: "memory", Case: "1.5 GB, pack -base", Unit: MiB, Limit: 512},

	// Everything else.
	{Part: "download", Case: "20.0 MB/s per connection, stretcher", Unit: OfCurl, Limit: 0.35},
	{Part: "download", Case: "not limited, stretcher", Unit: OfCurl, Limit: 1.2},
	{Part: "deploy", Case: "fresh, gzip, default", Unit: OfByHand, Limit: 0.78},
	{Part: "deploy", Case: "fresh, gzip, builtin", Unit: OfByHand, Limit: 0.42},
	{Part: "deploy", Case: "fresh, zstd, builtin", Unit: OfByHand, Limit: 0.36, Missed: oneFrame},
	{Part: "deploy", Case: "unchanged, gzip, default", Unit: OfByHand, Limit: 0.65},
	{Part: "deploy", Case: "unchanged, gzip, builtin", Unit: OfByHand, Limit: 0.45},
	{Part: "deploy", Case: "unchanged, zstd, builtin", Unit: OfByHand, Limit: 0.42, Missed: oneFrame},
	{Part: "deploy", Case: "1 % changed, gzip, builtin", Unit: OfByHand, Limit: 0.48},
	{Part: "deploy", Case: "1 % changed, zstd, builtin", Unit: OfByHand, Limit: 0.45, Missed: oneFrame},
	{Part: "growth", Case: "fresh, default", Unit: Growth, Limit: 1.2},
	{Part: "growth", Case: "fresh, builtin", Unit: Growth, Limit: 1.2},
	{Part: "growth", Case: "unchanged, default", Unit: Growth, Limit: 1.2},
	{Part: "growth", Case: "unchanged, builtin", Unit: Growth, Limit: 1.2},
	{Part: "memory", Case: "1.5 GB, gzip, rsync, fresh", Unit: MiB, Limit: 96},
	{Part: "memory", Case: "1.5 GB, gzip, rsync, unchanged", Unit: MiB, Limit: 96},
	{Part: "memory", Case: "1.5 GB, gzip, builtin, fresh", Unit: MiB, Limit: 96},
	{Part: "memory", Case: "1.5 GB, gzip, builtin, unchanged", Unit: MiB, Limit: 96},
	{Part: "memory", Case: "1.5 GB, zstd, rsync, fresh", Unit: MiB, Limit: 96},
	{Part: "memory", Case: "1.5 GB, zstd, rsync, unchanged", Unit: MiB, Limit: 96},
	{Part: "memory", Case: "1.5 GB, zstd, builtin, fresh", Unit: MiB, Limit: 96},
	{Part: "memory", Case: "1.5 GB, zstd, builtin, unchanged", Unit: MiB, Limit: 96},
	{Part: "window", Case: "builtin", Unit: OfRsync, Limit: 0.1},
	{Part: "releases", Case: "fresh", Unit: OfByHand, Limit: 0.35, Missed: gate},
	{Part: "releases", Case: "unchanged", Unit: OfByHand, Limit: 0.05},
	{Part: "releases", Case: "1 % changed", Unit: OfByHand, Limit: 0.40, Missed: gate},
	{Part: "releases", Case: "the old manifest again", Unit: OfFresh, Limit: 0.03},
	{Part: "releases", Case: "the new manifest again", Unit: OfFresh, Limit: 0.03},
	{Part: "releases", Case: "-rollback", Unit: OfFresh, Limit: 0.03},
	{Part: "releases", Case: "1 % changed, written to an xfs", Unit: OfRelease, Limit: 5},
}
