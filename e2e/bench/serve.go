package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// link limits how many bytes per second a server sends: on each connection, or on all
// of them together if the link is shared. A rate of 0 means no limit.
type link struct {
	rate   int
	shared bool
}

// server serves one file over HTTP.
type server struct {
	url      string
	stop     func() error
	requests atomic.Int64
	sent     atomic.Int64 // bytes of the file
}

// serve serves the file over the link.
func serve(path string, l link) (*server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &server{url: fmt.Sprintf("http://%s/%s", listener.Addr(), filepath.Base(path))}
	if l.rate > 0 {
		listener = &pacedListener{listener, l, &pacer{rate: l.rate}}
	}
	httpServer := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		w.Header().Set("ETag", `"1"`)
		http.ServeFile(&countingWriter{w, &s.sent}, r, path)
	})}
	served := make(chan error, 1)
	go func() { served <- httpServer.Serve(listener) }()
	s.stop = func() error {
		err := httpServer.Close()
		if e := <-served; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
		return err
	}
	return s, nil
}

// countingWriter counts the bytes of a body.
type countingWriter struct {
	http.ResponseWriter
	sent *atomic.Int64
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.sent.Add(int64(n))
	return n, err
}

// ReadFrom lets the kernel send the file, if the link has no limit.
func (w *countingWriter) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(w.ResponseWriter, r)
	w.sent.Add(n)
	return n, err
}

type pacedListener struct {
	net.Listener
	link
	pacer *pacer
}

func (l *pacedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if l.shared {
		return &pacedConn{c, l.pacer}, nil
	}
	return &pacedConn{c, &pacer{rate: l.rate}}, nil
}

// pacer says when the next bytes may be sent.
type pacer struct {
	rate int // bytes per second
	mu   sync.Mutex
	next time.Time
}

// wait waits until n bytes may be sent, and takes their time.
func (p *pacer) wait(n int) {
	// Compensate for a sleep that took too long, but give no credit to a connection
	// that was idle.
	const late = 10 * time.Millisecond
	p.mu.Lock()
	if earliest := time.Now().Add(-late); p.next.Before(earliest) {
		p.next = earliest
	}
	begin := p.next
	p.next = begin.Add(time.Duration(n) * time.Second / time.Duration(p.rate))
	p.mu.Unlock()
	time.Sleep(time.Until(begin))
}

// pacedConn is a connection whose bytes are sent when the pacer says so.
type pacedConn struct {
	net.Conn
	pacer *pacer
}

func (c *pacedConn) Write(p []byte) (int, error) {
	const chunk = 32 << 10
	sent := 0
	for sent < len(p) {
		next := p[sent:min(len(p), sent+chunk)]
		c.pacer.wait(len(next))
		n, err := c.Conn.Write(next)
		sent += n
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}
