package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A power cut is simulated by copying the image of a mounted disk while the agent
// deploys to it. A mount of the copy replays its journal, as after a power cut.
//
// The copy has to be one of a moment, since no disk has blocks of different
// moments. Therefore the images are on an xfs that clones files (FICLONE): it
// keeps all writers out meanwhile, and takes no time.

// testedDisks are the file systems that are tested, with the smallest size in MiB
// that mkfs accepts, and how to forget what the kernel knows of other copies.
var testedDisks = []struct {
	name      string
	mebibytes int
	forget    []string
	options   string // more of them for mount
}{
	{name: "ext4", mebibytes: 64},
	{name: "xfs", mebibytes: 300, options: ",nouuid"}, // another process may have another copy mounted for a moment
	{name: "btrfs", mebibytes: 128, forget: []string{"btrfs", "device", "scan", "--forget"}},
}

// testedPromises are the strategies that promise something about power cuts.
var testedPromises = []struct {
	strategy string
	mixed    bool // files of both versions may be there, each of them whole
	once     bool // dest must not exist before a deployment
}{
	{strategy: "builtin", mixed: true},
	{strategy: "mv", once: true},
	{strategy: "symlink"},
}

// cutsEach is how often the power is cut for each disk and strategy.
const cutsEach = 20

func TestPowerCut(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	images := h.mountCloning()
	seed := *tortureSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	var total atomic.Int64
	t.Run("on", func(t *testing.T) {
		for i, disk := range testedDisks {
			for j, promise := range testedPromises {
				t.Run(disk.name+" "+promise.strategy, func(t *testing.T) {
					if disk.forget == nil {
						t.Parallel() // else they would be the same file system for the kernel
					}
					p := &powerCut{site: newSite(t), images: filepath.Join(images, fmt.Sprint(i, j)), forget: disk.forget, options: disk.options, mixed: promise.mixed, once: promise.once}
					p.random = rand.New(rand.NewPCG(seed, uint64(10*i+j)))
					p.trees = tortured(150, promise.mixed)
					p.makeDisk("mkfs."+disk.name, disk.mebibytes)
					for i, tr := range p.trees {
						p.urls[i] = p.publish(fmt.Sprintf("version-%d", i), tr.pack(t), unpackedAgain(promise.strategy))
					}
					start := time.Now()
					p.takeCopies()
					for _, c := range p.copies {
						p.check(c)
					}
					total.Add(int64(len(p.copies)))
					t.Logf("seed %d: %d power cuts in %s left dest as it was %d times, wholly new %d times (%d of them after the success), and mixed %d times",
						seed, len(p.copies), time.Since(start).Round(time.Millisecond), p.old, p.new, p.succeeded, p.between)
				})
			}
		}
	})
	if n := total.Load(); !t.Failed() && n < 100 {
		t.Errorf("%d power cuts, want at least 100", n)
	}
}

// mountCloning mounts an xfs, which is in memory, and returns its directory. It
// skips the test where that is not possible.
func (h *host) mountCloning() string {
	h.t.Helper()
	if os.Geteuid() != 0 {
		h.t.Skip("needs root, to mount disks")
	}
	memory, images := h.path("memory"), h.path("images")
	for _, dir := range []string{memory, images} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			h.t.Fatal(err)
		}
	}
	mountSmall(h.t, memory, 4096, 100)
	h.makeImage("mkfs.xfs", filepath.Join(memory, "images"), 4000)
	if out, err := h.command("mount", "-o", "loop", filepath.Join(memory, "images"), images).CombinedOutput(); err != nil {
		h.t.Skipf("this system cannot mount an image of an xfs: %v: %s", err, out)
	}
	h.t.Cleanup(func() { unmount(h.t, images) })
	return images
}

// makeImage makes a file system in a new file.
func (h *host) makeImage(mkfs, path string, mebibytes int64) {
	h.t.Helper()
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(f.Truncate(mebibytes<<20), f.Close())
	}
	if err != nil {
		h.t.Fatal(err)
	}
	output(h.t, h.command(program(h.t, mkfs), "-q", path))
}

// powerCut is a site with a dest on a disk of its own.
type powerCut struct {
	*site
	images      string // prefix of the paths of the disk's image and its copies
	disk        string // where it is mounted
	forget      []string
	options     string
	mixed, once bool
	random      *rand.Rand
	trees       [2]tree
	urls        [2]string
	copies      []diskCopy

	old, new, between, succeeded int // how many copies had such a dest
}

// diskCopy is the disk after a power cut.
type diskCopy struct {
	path      string
	from, to  tree // what dest had, and what it was to get
	url       string
	succeeded bool // the deployment had reported success before the power cut
}

// makeDisk makes the disk and mounts it.
func (p *powerCut) makeDisk(mkfs string, mebibytes int) {
	p.t.Helper()
	p.disk = p.path("disk")
	if err := os.Mkdir(p.disk, 0o755); err != nil {
		p.t.Fatal(err)
	}
	p.makeImage(mkfs, p.images, int64(mebibytes))
	p.mount(p.images)
	p.dest = filepath.Join(p.disk, "site", "dest") // alone there, without lost+found
	if err := os.Mkdir(filepath.Dir(p.dest), 0o755); err != nil {
		p.t.Fatal(err)
	}
	p.sync()
	p.t.Cleanup(func() {
		// It is still mounted if the test has failed.
		if err := syscall.Unmount(p.disk, 0); err != nil && !errors.Is(err, syscall.EINVAL) {
			p.t.Errorf("unmount %s: %v", p.disk, err)
		}
	})
}

func (p *powerCut) mount(image string) {
	p.t.Helper()
	if p.forget != nil {
		output(p.t, p.command(p.forget[0], p.forget[1:]...))
	}
	output(p.t, p.command("mount", "-o", "loop"+p.options, image, p.disk))
}

func (p *powerCut) unmount() {
	p.t.Helper()
	unmount(p.t, p.disk)
}

// takeCopies deploys the two versions in turn, and copies the disk meanwhile. At
// the end, the disk is no longer mounted.
func (p *powerCut) takeCopies() {
	p.t.Helper()
	stop := p.neighbour()
	before := tree{}
	if !p.once {
		before = p.trees[1]
		p.deploy(p.urls[1])
	}
	took := 100 * time.Millisecond // from the beginning of the sync to the success
	for len(p.copies) < cutsEach && !p.t.Failed() {
		next := len(p.copies) / 2 % 2
		c := diskCopy{from: before, to: p.trees[next], url: p.urls[next]}
		syncing, succeeded := &sighting{text: "Syncing to", seen: make(chan struct{})}, &sighting{text: "Deploy manifest succeeded.", seen: make(chan struct{})}
		cmd := p.command(plainPath(p.t))
		cmd.Stderr = tee{syncing, succeeded}
		r := p.startCommand(cmd, c.url)
		syncing.wait(r)
		start := time.Now()
		time.Sleep(time.Duration(p.random.Int64N(int64(took))))
		p.copy(c, succeeded)
		succeeded.wait(r)
		took = time.Since(start)
		p.copy(c, succeeded)
		r.wait().wantSuccess()
		if p.once {
			p.removeDest()
		} else {
			before = c.to
		}
	}
	stop()
	p.unmount()
}

// removeDest removes dest for good.
func (p *powerCut) removeDest() {
	p.t.Helper()
	if err := os.RemoveAll(p.dest); err != nil {
		p.t.Fatal(err)
	}
	p.sync()
}

// sync flushes the disk only, since a flush of all disks would wait for what the other
// tests write.
func (p *powerCut) sync() {
	p.t.Helper()
	output(p.t, p.command("sync", "-f", p.disk))
}

// tee is a writer to two sightings.
type tee [2]*sighting

func (w tee) Write(p []byte) (int, error) {
	w[0].Write(p) // never fails
	return w[1].Write(p)
}

// copy copies the disk as it is now.
func (p *powerCut) copy(c diskCopy, succeeded *sighting) {
	p.t.Helper()
	select {
	case <-succeeded.seen:
		c.succeeded = true
	default:
	}
	c.path = fmt.Sprintf("%s.%d", p.images, len(p.copies))
	image, err := os.Open(p.images)
	if err != nil {
		p.t.Fatal(err)
	}
	defer image.Close()
	clone, err := os.Create(c.path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer clone.Close()
	const ficlone = 0x40049409 // ioctl_ficlone(2)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, clone.Fd(), ficlone, image.Fd()); errno != 0 {
		p.t.Fatalf("clone %s: %v", p.images, errno)
	}
	p.copies = append(p.copies, c)
}

// neighbour starts another user of the disk, such as a database, who flushes a file
// of his own again and again. With each flush the journal goes to the disk, and
// with it the names of other files, whose contents may not be there yet. It
// returns a function that stops him.
func (p *powerCut) neighbour() (stop func()) {
	p.t.Helper()
	f, err := os.Create(filepath.Join(p.disk, "neighbour"))
	if err != nil {
		p.t.Fatal(err)
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := int64(0); ; i++ {
			if _, err := f.WriteAt([]byte("transaction\n"), i%1000*12); err != nil {
				p.t.Errorf("neighbour: %v", err)
				return
			}
			if err := f.Sync(); err != nil {
				p.t.Errorf("neighbour: %v", err)
				return
			}
			select {
			case <-quit:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	return func() {
		close(quit)
		<-done
		f.Close()
	}
}

// check mounts a copy of the disk, checks what the strategy promises, and deploys
// again.
func (p *powerCut) check(c diskCopy) {
	p.t.Helper()
	p.mount(c.path)
	defer func() {
		p.unmount()
		if err := os.Remove(c.path); err != nil {
			p.t.Error(err)
		}
	}()
	resolved, err := filepath.EvalSymlinks(p.dest)
	if err != nil && !os.IsNotExist(err) {
		p.t.Fatal(err)
	}
	found := tree{}
	if err == nil {
		found = readTree(p.t, resolved)
	}
	isOld, isNew := len(c.from.differences(found)) == 0, len(c.to.differences(found)) == 0
	switch {
	case c.succeeded && !isNew:
		p.t.Errorf("after a success and a power cut, dest is not the new version: %v", c.to.differences(found))
	case isNew:
		p.new++
		if c.succeeded {
			p.succeeded++
		}
	case isOld:
		p.old++
	case p.mixed:
		p.between++
		v := &victim{site: p.site, signal: syscall.SIGKILL, trees: p.trees}
		v.wantWhole(found)
	default:
		p.t.Errorf("after a power cut, dest is neither the old version (%v) nor the new one (%v)", c.from.differences(found), c.to.differences(found))
	}
	if p.once && len(found) > 0 {
		p.removeDest()
	}
	p.startCommand(p.command(plainPath(p.t)), c.url).wait().wantSuccess()
	p.wantDeployed(c.to)
}
