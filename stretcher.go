// Package stretcher is a deployment agent: an event names a manifest, the
// manifest an archive, and the archive's files end in a directory of this
// machine, with commands run before and after.
package stretcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Version is the version of the agent: what the link flags set, else what the
// build information knows, else "devel".
var Version string

func init() {
	if Version != "" {
		return
	}
	Version = "devel"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		Version = info.Main.Version
	}
}

// Run is RunContext without a way to cancel it.
func Run(conf Config) error {
	return RunContext(context.Background(), conf)
}

// RunContext reads an event from the standard input and deploys the manifest
// that it names. What happens, failures included, is logged by the standard
// logger and kept in LogBuffer. An empty list of Consul events is no error.
//
// When ctx ends, what is going on is stopped and cleaned up, and the failure
// commands are run; the error is then the cause of ctx.
func RunContext(ctx context.Context, conf Config) error {
	defer captureLog(conf.LogLevel)()
	log.Println("Starting up stretcher agent", Version)
	err := run(ctx, conf)
	if errors.Is(err, errNoEvents) {
		log.Println("No event: nothing to deploy.")
		return nil
	}
	return err
}

func run(ctx context.Context, conf Config) error {
	if err := conf.check(); err != nil {
		return logged("Configuration", err)
	}
	ev, err := readEvent(ctx, os.Stdin)
	if errors.Is(err, errNoEvents) {
		return err
	}
	if err != nil {
		return logged("Event", err)
	}
	if conf.InitSleep > 0 {
		log.Printf("Sleeping %s", conf.InitSleep)
		if err := sleep(ctx, conf.InitSleep); err != nil {
			return logged("Sleeping", err)
		}
	}
	log.Println("Loading manifest:", redactURL(ev.manifestURL))
	data, err := fetchManifest(ctx, conf, ev.manifestURL)
	if err != nil {
		return logged("Load manifest", err)
	}
	m, err := ParseManifest(data)
	if err != nil {
		return logged("Load manifest", fmt.Errorf("%s: %w", redactURL(ev.manifestURL), err))
	}
	return m.deploy(ctx, conf, ev)
}

// logged logs err as the failure of a step, and returns it safe to show.
func logged(step string, err error) error {
	err = safeError{err}
	log.Printf("[ERROR] %s failed: %v", step, err)
	return err
}

// safeError is an error whose text holds no secrets of URLs.
type safeError struct{ error }

func (e safeError) Error() string { return redact(e.error.Error()) }

func (e safeError) Unwrap() error { return e.error }

// Deploy is DeployContext without a way to cancel it.
func (m *Manifest) Deploy(conf Config) error {
	return m.DeployContext(context.Background(), conf)
}

// DeployContext deploys the manifest and runs its success or failure
// commands. When ctx ends, the deployment fails with its cause.
func (m *Manifest) DeployContext(ctx context.Context, conf Config) error {
	defer captureLog(conf.LogLevel)()
	if err := conf.check(); err != nil {
		return logged("Configuration", err)
	}
	return m.deploy(ctx, conf, &event{})
}

func (m *Manifest) deploy(ctx context.Context, conf Config, ev *event) error {
	if err := m.check(); err != nil {
		return logged("Deploy manifest", err)
	}
	log.Println("Manifest:", m.summary())
	start := time.Now()
	commands := &runner{env: m.environment(ev), timeout: conf.CommandTimeout, abort: conf.Abort}
	if m.Src != "" {
		plain := *m
		plain.Dest = plainPath(m.Dest)
		m = &plain
	}
	err := m.put(ctx, conf, commands)
	if err == nil {
		err = context.Cause(ctx) // which nothing had to wait for any more
	}
	took := "STRETCHER_DURATION=" + strconv.FormatFloat(time.Since(start).Seconds(), 'f', 3, 64)
	if err != nil {
		err = logged("Deploy manifest", err)
		commands.env = append(commands.env, took, "STRETCHER_RESULT=failure", "STRETCHER_ERROR="+forEnvironment(err.Error()))
		ctx, cancel := afterwards(ctx, conf)
		defer cancel()
		if err := commands.pipedAll(ctx, m.Commands.Failure, capturedLog()); err != nil {
			log.Printf("[ERROR] failure command: %v", err)
		}
		return err
	}
	log.Println("Deploy manifest succeeded.")
	commands.env = append(commands.env, took, "STRETCHER_RESULT=success", "STRETCHER_ERROR=")
	if err := commands.pipedAll(ctx, m.Commands.Success, capturedLog()); err != nil {
		log.Printf("[ERROR] success command: %v", err)
	}
	log.Println("Done")
	return nil
}

// put puts the files of the archive in place, with the commands around it.
func (m *Manifest) put(ctx context.Context, conf Config, commands *runner) error {
	var archive *archive
	var strategy SyncStrategy
	if m.Src != "" {
		var err error
		if strategy, err = NewSyncStrategy(m); err != nil {
			return err
		}
		lock, err := lockDest(ctx, m.Dest)
		if err != nil {
			return err
		}
		defer lock.release()
		if _, ok := strategy.(*RsyncStrategy); ok {
			if err := checkOutside(os.TempDir(), m.Dest); err != nil {
				return err
			}
		}
		// Each strategy removes what a dead run of its own left; the dead run
		// may have had another one.
		sweepTempDirs(os.TempDir(), tempPrefix)
		sweepTempDirs(besideDest(m.Dest))
		spool, err := tempFile()
		if err != nil {
			return err
		}
		defer spool.Close()
		archive, err = m.getSrc(ctx, conf, spool)
		if err != nil {
			return err
		}
		defer archive.Close()
		if archive.own != nil {
			// The commands and the strategy may need the room.
			var freeing sync.WaitGroup
			freeing.Go(func() { logError("free what was downloaded", spool.Close()) })
			defer freeing.Wait()
		}
	}
	if err := commands.loggedAll(ctx, m.Commands.Pre); err != nil {
		return fmt.Errorf("pre command: %w", err)
	}
	if archive != nil {
		if err := m.sync(ctx, commands, archive, strategy); err != nil {
			return err
		}
	}
	if err := commands.loggedAll(ctx, m.Commands.Post); err != nil {
		return fmt.Errorf("post command: %w", err)
	}
	return nil
}

// getSrc downloads the archive to a file, and verifies and indexes it as it
// arrives.
func (m *Manifest) getSrc(ctx context.Context, conf Config, file *os.File) (*archive, error) {
	digest, err := newDigest(m.CheckSum)
	if err != nil {
		return nil, err
	}
	log.Println("Downloading src:", redactURL(m.Src))
	var (
		spool    = newSpool(file, 0)
		archive  *archive
		indexErr error
		readErr  error
		readers  sync.WaitGroup
	)
	spool.setLead(0)
	readers.Go(func() {
		readErr = spool.read(false, func(arriving io.Reader) error {
			digest.Reset()
			_, err := io.CopyBuffer(digest, arriving, make([]byte, chunkSize))
			return err
		})
	})
	indexing, stopIndexing := context.WithCancelCause(ctx)
	defer stopIndexing(nil)
	readers.Go(func() {
		indexErr = spool.read(true, func(arriving io.Reader) (err error) {
			archive, err = indexArchive(indexing, arriving, file, conf.MaxSize)
			return err
		})
	})
	if err = fetchSrc(ctx, conf, m.Src, spool); err != nil {
		stopIndexing(err)
	}
	readers.Wait()
	switch {
	case err != nil:
	case readErr != nil:
		err = fmt.Errorf("read the download: %w", readErr)
	default:
		err = verify(m.CheckSum, digest)
	}
	if err != nil {
		if archive != nil {
			archive.Close()
		}
		//lint:ignore ST1005 operators match on these words
		return nil, fmt.Errorf("Get src failed: %w", err)
	}
	log.Println("Checksum ok:", m.CheckSum)
	if indexErr != nil {
		return nil, fmt.Errorf("%s: %w", redactURL(m.Src), indexErr)
	}
	return archive, nil
}

// sync makes dest equal to the archive.
func (m *Manifest) sync(ctx context.Context, commands *runner, a *archive, strategy SyncStrategy) error {
	if _, ok := a.rootMode(); ok && m.DestMode != nil {
		log.Printf("dest_mode %04o is not applied: the archive brings the mode of its root directory", *m.DestMode)
	}
	log.Printf("Syncing to %s", m.Dest)
	sweepTempDirs(m.Dest, tempPrefix) // not before: an archive may have brought such a name there
	if s, ok := strategy.(*builtinStrategy); ok {
		return s.syncArchive(ctx, a, m.Dest, m.destMode())
	}
	parent, err := filepath.Abs(os.TempDir()) // what has a colon in it, rsync may take for a host
	if err != nil {
		return err
	}
	prefix := tempPrefix
	if _, ok := strategy.(*MvSyncStrategy); ok {
		parent, prefix = besideDest(m.Dest)
	}
	staging, err := newTempDir(parent, prefix)
	if err != nil {
		return err
	}
	defer func() { logError("remove the staging directory", staging.remove()) }()
	from := filepath.Join(staging.path, "root")
	if err := os.Mkdir(from, 0o700); err != nil {
		return err
	}
	if err := a.extract(ctx, from); err != nil {
		return fmt.Errorf("extract the archive: %w", err)
	}
	if _, ok := a.rootMode(); !ok {
		if err := unix.Chmod(from, uint32(m.destMode())); err != nil {
			return &fs.PathError{Op: "chmod", Path: from, Err: err}
		}
	}
	if s, ok := strategy.(*RsyncStrategy); ok {
		return s.sync(ctx, commands.unlimited(), from, m.Dest)
	}
	if len(m.Excludes) > 0 || m.ExcludeFrom != "" {
		log.Println("[WARN] excludes and exclude_from do nothing with sync_strategy mv: dest is new")
	}
	if m.ExcludeFrom != "" {
		if _, err := excludeFile(from, m.ExcludeFrom); err != nil {
			return err
		}
	}
	return strategy.Sync(from, m.Dest)
}

// checkOutside makes sure that what is staged in dir is not in dest, where rsync
// would delete it, and then all else.
func checkOutside(dir, dest string) error {
	realDir, err := realPath(dir)
	if err != nil {
		return err
	}
	realDest, err := realPath(dest)
	if err != nil {
		return err
	}
	if realDir == realDest || strings.HasPrefix(realDir, realDest+"/") {
		return fmt.Errorf("the directory for temporary files, %s, is inside of dest: set TMPDIR to another one", dir)
	}
	return nil
}

// besideDest returns where the strategy mv makes its staging directory, since
// what is renamed to dest has to be on its filesystem, and with which prefix.
func besideDest(dest string) (parent, prefix string) {
	return filepath.Dir(dest), "." + filepath.Base(dest) + tempPrefix
}

// summary is what the log tells of a manifest: not its commands, which are
// logged when they run.
func (m *Manifest) summary() string {
	c := &m.Commands
	s := fmt.Sprintf("commands: %d pre, %d post, %d success, %d failure", len(c.Pre), len(c.Post), len(c.Success), len(c.Failure))
	if m.Src == "" {
		return s
	}
	return fmt.Sprintf("src: %s, checksum: %s, dest: %s, sync_strategy: %s, %s", redactURL(m.Src), m.CheckSum, m.Dest, cmp.Or(m.SyncStrategy, "(default)"), s)
}

// environment is what the commands find in their environment: that of the
// agent, what the manifest adds, and of what deployment they are part.
func (m *Manifest) environment(ev *event) []string {
	var env []string
	for _, e := range os.Environ() {
		switch name, _, _ := strings.Cut(e, "="); name {
		case "STRETCHER_RESULT", "STRETCHER_ERROR", "STRETCHER_DURATION":
			// of a deployment whose command started this one
		case "CONSUL_INDEX":
			// A deployment that a command starts has to tell it of its failure.
		default:
			env = append(env, e)
		}
	}
	for name, value := range m.Commands.Env {
		env = append(env, name+"="+value)
	}
	return append(env,
		"STRETCHER_MANIFEST_URL="+forEnvironment(redactURL(ev.manifestURL)),
		"STRETCHER_SRC="+forEnvironment(redactURL(m.Src)),
		"STRETCHER_CHECKSUM="+m.CheckSum,
		"STRETCHER_DEST="+m.Dest,
		"STRETCHER_EVENT_ID="+forEnvironment(ev.id))
}

// forEnvironment returns s as the value of a variable: without secrets and
// NUL bytes, and not so long that no command could be started.
func forEnvironment(s string) string {
	const most = 16 << 10
	s = strings.ReplaceAll(redact(s), "\x00", "")
	return s[:min(len(s), most)]
}

// afterwards returns a context for the failure commands. It outlives ctx, by
// a minute if there is no time limit for commands.
func afterwards(ctx context.Context, conf Config) (context.Context, context.CancelFunc) {
	const most = time.Minute
	after, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	if conf.CommandTimeout == 0 {
		stop := context.AfterFunc(ctx, func() {
			if sleep(after, most) == nil {
				cancel(fmt.Errorf("%w after %s", errTimeout, most))
			}
		})
		context.AfterFunc(after, func() { stop() })
	}
	if conf.Abort != nil {
		go func() {
			select {
			case <-conf.Abort:
				cancel(errors.New("aborted"))
			case <-after.Done():
			}
		}()
	}
	return after, func() { cancel(nil) }
}
