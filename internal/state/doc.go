// Package state is what a host remembers of its deployments, in a directory that
// outlives the runs of the agent:
//
//	state.json     the events handled with success, and totals of each dest
//	history.jsonl  a line of JSON for each deployment
//	lock           locked while one of the two is read or written (flock(2))
//
// An event is handled as soon as state.json, with the event in it, has been renamed
// into place and flushed to disk. Nothing before that makes it handled, and nothing
// after it undoes it: whoever is killed before it deploys the event again.
//
//	Open:
//		make the directory, if it is missing
//		lock; read state.json, move it aside if it is damaged, write it again
//		open history.jsonl for writing
//
//	Handled:
//		lock; read state.json; look for the event
//
//	Record:
//		lock
//		read state.json; add the event of a success, and the totals; replace it
//		append a line to history.jsonl
//
// Open writes so that a directory that cannot be written to, or a full disk, is
// found before anything is deployed. The lock is held for milliseconds, never while
// a deployment runs, so that a command of one may start another one with the same
// directory.
package state
