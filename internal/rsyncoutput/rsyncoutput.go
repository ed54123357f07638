// Package rsyncoutput reads what rsync(1) prints: why it failed, and what the
// statistics of its option --stats say.
//
// rsync writes the names of files and its messages to the same output. A name
// cannot have a line break there, since rsync escapes control characters, and so
// it cannot be an empty line either. The statistics are recognized by the empty
// line before them. Messages are recognized by how they begin; a file whose name
// looks like a message can get into the text of an error, but nowhere else.
//
// The messages are those of rsync 3.0 to 3.5. rsync sets the locale only for the
// classification of characters (LC_CTYPE), so they are not translated.
package rsyncoutput

import (
	"bytes"
	"io"
	"sync"
)

// maxLine is the size in bytes from which on an unfinished line is passed on
// before its end arrives. rsync's own lines are shorter.
const maxLine = 64 << 10

// Output passes on the output of rsync, and remembers what it says. Its methods
// may be called by several goroutines at once.
type Output struct {
	mu      *sync.Mutex
	next    io.Writer
	hide    bool   // what only --stats prints
	pending []byte // of a line whose end has not arrived
	shown   []byte // what the current Write passes on
	part    part
	lists   bool // rsync lists names, because it is verbose
	listed  int  // how many so far
	stats   Stats
	causes  *causes

	keepsItems bool
	items      []item          // of a dry run
	stay       map[string]bool // directories that it would not delete
}

// part is what the lines that arrive belong to.
type part int

const (
	ordinary part = iota // names and messages
	blank                // an empty line; whether to hide it, the next line tells
	summary              // the two lines "sent ..." and "total size is ..."
	heap                 // the memory statistics that -vv adds to --stats
	counts               // the statistics
)

// New returns an Output that passes on to next all that rsync prints. If hide is
// true, it leaves out the lines that rsync prints only because of --stats.
func New(next io.Writer, hide bool) *Output {
	return &Output{mu: new(sync.Mutex), next: next, hide: hide, causes: new(causes)}
}

// Beside returns an Output for the stderr of the same rsync, which is passed on to
// next. What it says counts for Cause of o. If next is where o passes on, it is o, so
// that rsync has one pipe for both.
func (o *Output) Beside(next io.Writer) *Output {
	if next == o.next {
		return o
	}
	return &Output{mu: o.mu, next: next, causes: o.causes}
}

// Write takes output of rsync. Its error is that of next.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := len(p)
	for len(p) > 0 {
		line, rest, ends := bytes.Cut(p, []byte("\n"))
		o.pending = append(o.pending, line...)
		p = rest
		if ends || len(o.pending) >= maxLine {
			o.endLine(ends)
		}
	}
	return n, o.passOn()
}

// Close passes on a last line that has no line break, and nothing else.
func (o *Output) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.pending) > 0 {
		o.endLine(false)
	}
	if o.part == blank && o.hide {
		o.show(nil, true)
	}
	o.part = ordinary
	return o.passOn()
}

// Stats returns the statistics, and false if rsync printed none.
func (o *Output) Stats() (Stats, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.stats, o.stats.known
}

// Listed returns how many names rsync has listed so far, with its other messages.
func (o *Output) Listed() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.listed
}

// Cause returns why rsync failed, in one line: the messages that say so, and what
// to do about it where that is known. It is "" where rsync said nothing.
func (o *Output) Cause() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.causes.String()
}

func (o *Output) passOn() error {
	if len(o.shown) == 0 {
		return nil
	}
	_, err := o.next.Write(o.shown)
	o.shown = o.shown[:0]
	return err
}

// endLine handles the pending line. ends is whether it has a line break.
func (o *Output) endLine(ends bool) {
	line := o.pending
	o.pending = o.pending[:0]
	if o.keepsItems {
		if i, ok := parseItem(string(line)); ok {
			o.items = append(o.items, i)
			o.part = ordinary
			return
		}
		o.noteStay(string(line))
	}
	before := o.part
	o.part = o.partOf(line)
	switch o.part {
	case ordinary:
		if o.lists {
			o.listed++
		}
		o.lists = o.lists || listsNames(line)
		o.causes.add(line)
	case counts:
		o.stats.add(line)
	}
	if before == blank && o.hide && (o.part == ordinary || o.part == blank) {
		o.show(nil, true)
	}
	if o.part == ordinary && !(o.keepsItems && misleads(line)) || !o.hide {
		o.show(line, ends)
	}
}

// show adds a line to what is passed on.
func (o *Output) show(line []byte, ends bool) {
	o.shown = append(o.shown, line...)
	if ends {
		o.shown = append(o.shown, '\n')
	}
}

// partOf returns the part that a line belongs to.
func (o *Output) partOf(line []byte) part {
	switch {
	case len(line) == 0:
		return blank
	case o.part == blank && startsHeap(line):
		return heap
	case o.part == blank && startsCounts(line):
		return counts
	case o.part == blank && (!o.lists || o.keepsItems) && startsSummary(line):
		return summary // without -v, only --stats prints it; of a dry run, it says nothing
	case o.part == summary && endsSummary(line):
		return summary
	case o.part == heap && isHeap(line):
		return heap
	case o.part == counts && isCount(line):
		return counts
	}
	return ordinary
}
