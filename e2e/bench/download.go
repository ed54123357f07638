package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// fetchByHand downloads and verifies an archive, but does not unpack it. Its
// arguments are the URL, the SHA-256 and a directory for temporary files.
const fetchByHand = `
curl -sSf -o "$3/archive" "$1"
echo "$2  $3/archive" | sha256sum --check --status
rm "$3/archive"
`

// unpackByHand does approximately what the agent does.
const unpackByHand = `
curl -sSf -o "$3/archive" "$1"
echo "$2  $3/archive" | sha256sum --check --status
mkdir "$4"
tar xf "$3/archive" -C "$4"
rm "$3/archive"
`

// download measures downloads from a server that limits the rate of each
// connection and from a server that does not.
//
// The agent cannot be told to only download, so its time includes extracting the
// file in the archive, which means writing the same number of bytes again.
func (b *bench) download(ctx context.Context) error {
	const (
		size = 200e6
		rate = 20e6 // bytes per second
	)
	path := filepath.Join(b.dir, "object.tar")
	tree, err := pack(ctx, path, func(p *packer) error {
		return p.file("large", 0o644, someTime, size, random(0))
	})
	if err != nil {
		return err
	}
	object, err := newArchive(path)
	if err != nil {
		return err
	}
	fmt.Printf("a tar of %s of incompressible data\n\n", tree)

	t := newTable("", "", "time", "ratio", "target", "")
	if err := b.downloadFrom(ctx, t, rate, 0.35, object, tree); err != nil {
		return err
	}
	if err := b.downloadFrom(ctx, t, 0, 1.2, object, tree); err != nil {
		return err
	}
	return t.print()
}

// downloadFrom measures downloads from a server that sends at most rate bytes
// per second on each connection. A rate of 0 means no limit.
func (b *bench) downloadFrom(ctx context.Context, t table, rate int, target float64, object archive, tree tree) (err error) {
	server := "not limited"
	if rate > 0 {
		server = fmt.Sprintf("%s/s per connection", megabytes(int64(rate)))
	}
	url, stop, err := serve(object.path, rate)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	object.url = url

	type fetch func(context.Context) (time.Duration, error)
	shell := func(script string) fetch {
		return func(ctx context.Context) (time.Duration, error) {
			return b.shell(ctx, script, url, object.sum, b.tmp(), b.dest())
		}
	}
	agent := func(args ...string) fetch {
		return func(ctx context.Context) (time.Duration, error) {
			cmd, err := b.deployment(ctx, object, "builtin", args...)
			if err != nil {
				return 0, err
			}
			return b.timed(cmd, nil)
		}
	}
	sides := []struct {
		name     string
		unpacked bool
		target   float64
		fetch    fetch
	}{
		{"curl, sha256sum", false, 0, shell(fetchByHand)},
		{"curl, sha256sum, tar xf", true, 0, shell(unpackByHand)},
		{"stretcher -connections 1", true, 0, agent("-connections", "1")},
		{"stretcher", true, target, agent()},
	}
	times := make([]samples, len(sides))
	for range b.runs {
		for i, s := range sides {
			if err := os.RemoveAll(b.dest()); err != nil {
				return err
			}
			took, err := s.fetch(ctx)
			if err == nil && s.unpacked {
				err = tree.verify(b.dest())
			}
			if err != nil {
				return fmt.Errorf("%s, %s: %w", server, s.name, err)
			}
			times[i] = append(times[i], took)
		}
	}
	for i, s := range sides {
		t.row(append([]string{server, s.name, times[i].String()}, b.verdict(times[i].to(times[0]), s.target)...)...)
	}
	return nil
}

// serve serves the file over HTTP with at most rate bytes per second on each
// connection. A rate of 0 means no limit.
func serve(path string, rate int) (url string, stop func() error, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	url = fmt.Sprintf("http://%s/%s", listener.Addr(), filepath.Base(path))
	if rate > 0 {
		listener = cappedListener{listener, rate}
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		http.ServeFile(w, r, path)
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	return url, func() error {
		err := server.Close()
		if e := <-served; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
		return err
	}, nil
}

type cappedListener struct {
	net.Listener
	rate int
}

func (l cappedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &cappedConn{Conn: c, rate: l.rate}, nil
}

// cappedConn is a connection that sends at most rate bytes per second.
type cappedConn struct {
	net.Conn
	rate int
	next time.Time // when the next bytes may be sent
}

func (c *cappedConn) Write(p []byte) (int, error) {
	const (
		chunk = 32 << 10
		// Compensate for a sleep that took too long, but give no credit to a
		// connection that was idle.
		late = 10 * time.Millisecond
	)
	sent := 0
	for sent < len(p) {
		if earliest := time.Now().Add(-late); c.next.Before(earliest) {
			c.next = earliest
		}
		time.Sleep(time.Until(c.next))
		n, err := c.Conn.Write(p[sent:min(len(p), sent+chunk)])
		sent += n
		c.next = c.next.Add(time.Duration(n) * time.Second / time.Duration(c.rate))
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}
