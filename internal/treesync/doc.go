// Package treesync puts a tree of files on disk: Extract creates it in an empty
// directory, as tar xf does, and Sync makes a directory that may have files
// already equal to it, as rsync -a --delete does.
//
// The tree is an archive's index (package archive), or what SyncDir reads of
// another directory. Each name in it stands for one file, and the bytes of
// regular files are read from where they are: an archive is synced without
// being extracted.
//
// # Extract
//
//	fill, for each directory, the top one first:
//	    create its files, in the order of their bytes in the archive
//	    create its directories, and fill each of them
//	    set its owner, mode and time
//
// If the archive has hard links, the last step waits: first all files are
// created, then makeLinks links further names to them, and then setDirs sets
// the attributes of all directories, the deepest first.
//
// Fresh is such a tree without what excludes match, for the releases of package
// releases. What a directory given to it has of the contents is cloned: the file
// system lets both files share their blocks, and copies a block when one of them is
// written to. Of a file with other contents, only the blocks that differ are written.
//
// # Sync
//
// Everything new is staged inside dest first: on the same file system, so that
// rename(2) can put it in place. Until all of it is there, dest does not change.
//
//	prune: remove from the tree what the excludes match
//	open dest, or create it
//	sweep: remove the staging directories that killed runs left in dest
//	compare, for each directory that dest and the tree both have:
//	    plan the removal of names that the tree lacks and no exclude protects
//	    stage names that dest lacks
//	    for each name that both have, decide:
//	        keep     if it is the same
//	        repair   if only its mode, owner or time differs
//	        replace  otherwise: stage the tree's
//	        blocked  if it would be replaced, but holds protected names: fail
//	    fail if what is to change must not: it is immutable, a mount point, ...
//	    compare the directories that both have
//	flush what is staged to disk, unless that is nothing
//	if any of that failed or was cancelled:
//	    undo: remove the staging directories, set back modes and times
//	commit, for each directory with something to do:
//	    place:  rename what is staged to its place, do the repairs
//	    remove: move what has to go to the staging directory
//	    finish: set the owner, mode and time of the directory
//	clear: remove the staging directories with all that is in them
//	finish the directories that had one, dest itself last
//	flush what was changed to disk, unless that is nothing
//
// Place exchanges the old and the new file where it can (RENAME_EXCHANGE), and
// remove moves a directory as a whole, so that the commit takes no longer than
// its renames. The old files are deleted after it. Each step of the commit is
// done for all directories before the next begins, except that finish follows
// the last of the others in each directory.
//
// # Preview
//
// Preview makes the plan of compare without sweep and stage, and lists it. What would
// make compare fail is collected, so that the list is complete.
//
// # Failures
//
// An error before the commit leaves dest as it was. An error in the commit stops
// it and undoes it (roll back), except for repaired files, whose contents are the
// same, and for what the file system could not exchange. If an old file cannot be
// moved back, the staging directory that it is in stays until the next run. If clear
// finds an old file that cannot be deleted, it moves it back to where it was, and
// fails: what exists is to stay in its place, where the next run finds it again, and
// fails again. A killed run's staging directory that sweep cannot remove fails the
// sync, for the same reason.
//
// What a killed run leaves (the process or the machine may be stopped at any time)
// depends on the step:
//
//	compare  dest as it was, with a staging directory in it, and a dest that the
//	         run created; if an ordinary user's own directories were closed to
//	         him, they have a mode that lets him in
//	place    names that are the old or the new file, each of them whole
//	remove   all new names, and some that should be gone
//	finish   all names right, and directories with the old mode, owner or time
//
// In each case the next run removes the staging directory and completes the
// rest, since it compares what it finds.
//
// # Power cuts
//
// A machine that loses power leaves the same states as a killed run, on file
// systems that keep the order of changes to directories: those with a journal
// (ext4, xfs) and btrfs. They may write the contents of a file later than its
// name, though. So all that is staged is flushed before the first rename, by one
// call for each mount (syncfs(2)), and each name is the old or the new file,
// whole. After the flush at the end, what is reported as done stays so.
//
// # Several users
//
// Root deploys to directories that others may write to. Every directory is
// opened in its open parent, and never through a symbolic link, so whoever
// swaps a directory for a link makes a step fail and redirects nothing. The
// path of dest itself is the exception: it may be a symbolic link.
//
// # Workers
//
// A directory's names are divided into batches of a limited number of names and
// bytes. Batches and subdirectories are work for at most GOMAXPROCS goroutines (type
// workers). Work that finds all of them busy is done by the goroutine that hands it
// out, so no queue grows with the tree.
package treesync
