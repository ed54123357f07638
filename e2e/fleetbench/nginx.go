package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// nginx serves the directory www.
type nginx struct {
	cmd    *exec.Cmd
	exited chan struct{}
	addr   string
	log    string // path of its access log
}

func startNginx(dir string) (*nginx, error) {
	program, err := exec.LookPath("nginx")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/nginx"); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n := &nginx{addr: l.Addr().String(), log: filepath.Join(dir, "access.log"), exited: make(chan struct{})}
	if err := l.Close(); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "nginx.conf")
	// Without a master process, the files are read by the user that runs this.
	if err := os.WriteFile(config, []byte(strings.ReplaceAll(`
daemon off;
master_process off;
pid DIR/nginx.pid;
error_log DIR/error.log;
events { worker_connections 4096; }
http {
	log_format times '$msec $request_time $status $bytes_sent $uri';
	access_log DIR/access.log times;
	sendfile on;
	client_body_temp_path DIR/tmp-body;
	proxy_temp_path DIR/tmp-proxy;
	fastcgi_temp_path DIR/tmp-fastcgi;
	uwsgi_temp_path DIR/tmp-uwsgi;
	scgi_temp_path DIR/tmp-scgi;
	server {
		# With larger buffers, the kernel would take an archive before the agent does.
		listen `+n.addr+` sndbuf=128k;
		root DIR/www;
		location = /status { stub_status; access_log off; }
	}
}
`, "DIR", dir)), 0o644); err != nil {
		return nil, err
	}
	n.cmd = exec.Command(program, "-e", filepath.Join(dir, "error.log"), "-c", config)
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := n.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		n.cmd.Wait() // it is stopped by a signal
		close(n.exited)
	}()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, err := n.connections()
		if err == nil {
			return n, nil
		}
		select {
		case <-n.exited:
			reason, _ := os.ReadFile(filepath.Join(dir, "error.log"))
			return nil, fmt.Errorf("nginx has exited: %s", reason)
		default:
			if time.Now().After(deadline) {
				return nil, errors.Join(fmt.Errorf("nginx does not answer: %w", err), n.stop())
			}
		}
	}
}

func (n *nginx) stop() error {
	err := n.cmd.Process.Signal(syscall.SIGTERM)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	<-n.exited
	return err
}

// connections returns the number of connections other than the one that asks.
func (n *nginx) connections() (int, error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + n.addr + "/status")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	var active int
	if _, err := fmt.Sscanf(string(text), "Active connections: %d", &active); err != nil {
		return 0, fmt.Errorf("status of nginx: %w: %s", err, text)
	}
	return active - 1, nil
}

// watchConnections samples the number of connections until stop is called, which
// returns the largest.
func (n *nginx) watchConnections() (stop func() (int, error)) {
	done := make(chan struct{})
	var peak int
	var failed error
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			active, err := n.connections()
			peak, failed = max(peak, active), errors.Join(failed, err)
			select {
			case <-done:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	return func() (int, error) {
		close(done)
		wait.Wait()
		return peak, failed
	}
}

// request is a line of the access log.
type request struct {
	end, took float64 // seconds
	status    int
	bytes     float64
	path      string
}

// requests returns the requests of the log from this offset on.
func (n *nginx) requests(offset int64) ([]request, error) {
	log, err := os.Open(n.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if _, err := log.Seek(offset, io.SeekStart); err != nil {
		return nil, err
	}
	var all []request
	for lines := bufio.NewScanner(log); ; {
		if !lines.Scan() {
			return all, lines.Err()
		}
		var r request
		if _, err := fmt.Sscan(lines.Text(), &r.end, &r.took, &r.status, &r.bytes, &r.path); err != nil {
			return nil, fmt.Errorf("access log of nginx: %w: %s", err, lines.Text())
		}
		all = append(all, r)
	}
}

// peakRate returns the most bytes that were sent within a second. The bytes of a
// request are taken to be spread evenly over its time.
func peakRate(all []request) float64 {
	const step = 0.1
	slots := map[int]float64{}
	for _, r := range all {
		first, last := int((r.end-r.took)/step), int(r.end/step)
		for slot := first; slot <= last; slot++ {
			slots[slot] += r.bytes / float64(last-first+1)
		}
	}
	var peak float64
	for slot := range slots {
		var second float64
		for i := range int(1 / step) {
			second += slots[slot+i]
		}
		peak = max(peak, second)
	}
	return peak
}
