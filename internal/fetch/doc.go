// Package fetch downloads an object, such as an archive or a manifest, from a
// URL of the scheme s3, gs, http, https or file.
//
// A source knows one scheme: it opens an object at an offset and says how large
// the object is and which validator it has, a string that changes with the
// object (an ETag, a generation, or the time of the last change). Everything
// else is written once, on top of that:
//
//	find the source of the URL
//	retry, at most Options.Retries times, with a pause in between:
//	    attempt:
//	        open the object at the offset that the spool has reached
//	        start over if the object has changed since, or if the server
//	            cannot continue at an offset: empty the spool, open at 0
//	        fail if the spool cannot hold the object
//	        if the rest is large and the server can send ranges of it:
//	            divide the rest into parts
//	            each of several connections, until no part is free:
//	                take the next free part
//	                open it (with retries of its own) and write it to its place
//	        else:
//	            read the rest over the one connection
//	    stop at an error that another attempt would meet again
//
// All connections share one bandwidth limit. A connection that receives nothing
// for a minute is stalled, which counts as a failed attempt; a part that takes
// much longer than the others is requested again over a new connection, which
// does not.
//
// The spool is the file that the bytes are written to as they arrive, in any
// order. Readers run behind it while the download goes on: each reads the bytes
// in order, from the first one on, and waits for those that have not arrived.
// When the object is started over, the readers are too.
//
// Manifest and SignedManifest fetch small objects into memory in the same way. An Object
// fetches ranges, which are resumed as well. A Place tells package upload where an
// object with a URL is stored.
//
// Log lines and errors contain no secrets of URLs; see package redact.
package fetch
