// Package releases keeps the releases of a dest, which is a symbolic link to the
// current one:
//
//	app -> app.releases/20260801T101500.000Z-0123456789ab-ba9876543210
//	app.releases/
//	    20260801T101500.000Z-0123456789ab-ba9876543210/
//	    20260801T101500.000Z-0123456789ab-ba9876543210.yml
//	app.shared/
//
// The name of a release consists of the time at which it was begun (UTC), the first
// digits of the archive's checksum, and a digest of all that decides what is in it.
// The manifest beside it, which has the mode 0600, is also the mark of a finished
// release: it gets its name only after everything is on disk.
//
// # Making a release current
//
//	make, unless a finished release has the same checksum and digest:
//	    create the directory, and everything in it: what the current release has
//	      too is cloned where the file system can; shared paths become links
//	    create the shared paths that do not exist yet
//	    write the manifest under a temporary name
//	    flush the file system (syncfs(2))
//	    rename the manifest: the release is finished; flush the directory
//	switch: rename a new link to dest, flush its directory
//	undo, if a later step fails:
//	    remove the manifest, so that the release is not finished any more
//	    put back the link, or remove it if there was none; flush its directory
//	    remove the release, if this run has made it
//	prune, if nothing failed: replace the manifest by the one of this deployment,
//	    if it differs; remove the oldest releases
//
// A process or a machine that stops at any point leaves dest as a link to the old
// or to the new release, both of them whole. Clean, which the next run calls, removes
// the rest: a release without its mark is not finished, and neither used nor
// counted. Names in app.releases that this package does not make are left alone.
//
// Directories are opened in their open parents, and never through a symbolic link.
// Because a rollback runs the commands in a manifest, only files of this process's
// user count as manifests.
package releases
