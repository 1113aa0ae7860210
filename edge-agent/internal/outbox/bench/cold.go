package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fillQueue fills an outbox with b.queue bytes of payload.
func (b *bench) fillQueue(dir string) error {
	x, err := openBox(dir, nil)
	if err != nil {
		return err
	}
	return errors.Join(fillBox(x, int(b.queue/payload)), x.stop())
}

// openings is how often a cold outbox is opened.
const openings = 5

// open measures how long a device with a backlog takes until it acknowledges.
func (b *bench) open() (err error) {
	name := fmt.Sprintf("open with %.1f GB queued, cold: first acknowledgement", float64(b.queue)/1e9)
	im, err := b.newImage(b.queue + b.queue/2 + 512<<20)
	if errors.Is(err, errNoLoop) {
		b.skip(name, err.Error())
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, im.remove()) }()
	dir := filepath.Join(im.at, "outbox")
	b.screen.say("opening: filling with %d MiB", b.queue>>20)
	if err := b.fillQueue(dir); err != nil {
		return err
	}
	var seconds, megabytes []float64
	for i := range openings {
		b.screen.say("opening: %d of %d", i+1, openings)
		s, read, err := openCold(im, dir)
		if err != nil {
			return err
		}
		seconds, megabytes = append(seconds, s), append(megabytes, float64(read)/1e6)
	}
	b.add(name, seconds, "s", atMost(1), "")
	b.add("the same: read from the device", megabytes, "MB", atMost(128), "")
	return nil
}

// openCold returns how long it took until a record was durable, and what was read.
func openCold(im *image, dir string) (seconds float64, read int64, err error) {
	if err := im.chill(); err != nil {
		return 0, 0, err
	}
	before, _, err := im.bytes()
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	x, err := openBox(dir, nil)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, x.stop()) }()
	if _, err := x.Append(context.Background(), drafts(1)...); err != nil {
		return 0, 0, err
	}
	seconds = time.Since(start).Seconds()
	after, _, err := im.bytes()
	return seconds, after - before, err
}

// drainings is how often a backlog is drained on each side.
const drainings = 3

// memory measures what draining a backlog takes, in a process of its own, and how
// much slower it is where memory is short.
func (b *bench) memory() (err error) {
	dir, err := b.fresh("queue")
	if err != nil {
		return err
	}
	b.screen.say("memory: filling with %d MiB", b.queue>>20)
	if err := b.fillQueue(dir); err != nil {
		return err
	}
	short := filepath.Join("/sys/fs/cgroup/memory", "holdfast-bench-"+strconv.Itoa(os.Getpid()))
	nogroup := makeGroup(short, 64<<20)
	if nogroup == nil {
		defer func() { err = errors.Join(err, os.Remove(short)) }()
	}
	var anon, maps, wide, tight, slower []float64
	for i := range drainings {
		b.screen.say("memory: draining, round %d of %d", i+1, drainings)
		r, err := b.child(dir, "")
		if err != nil {
			return err
		}
		anon, maps, wide = append(anon, float64(r.anon)/1e6), append(maps, float64(r.maps)), append(wide, r.rate)
		if nogroup != nil {
			continue
		}
		if r, err = b.child(dir, short); err != nil {
			return err
		}
		tight, slower = append(tight, r.rate), append(slower, 100*(1-r.rate/wide[i]))
	}
	b.add(fmt.Sprintf("draining %.1f GB, cold: RssAnon at most", float64(b.queue)/1e9), anon, "MB", atMost(24), fmt.Sprintf("%.0f records/s", median(wide)))
	b.add("the same: segments mapped at most", maps, "files", atMost(2), "")
	if nogroup != nil {
		b.skip("the same in a cgroup of 64 MiB", "no memory cgroup (v1) to be had: "+nogroup.Error())
		return nil
	}
	b.add("the same in a cgroup of 64 MiB: slower by", slower, "%", atMost(20), fmt.Sprintf("%.0f records/s", median(tight)))
	return nil
}

func makeGroup(dir string, limit int64) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	err := os.WriteFile(filepath.Join(dir, "memory.limit_in_bytes"), strconv.AppendInt(nil, limit, 10), 0)
	if err != nil {
		return errors.Join(err, os.Remove(dir))
	}
	return nil
}

// drained is what a draining process took.
type drained struct {
	rate float64 // records a second
	anon int64   // bytes of anonymous memory at most, looked at 50 times a second
	maps int64   // segments mapped at most
}

// child drains an outbox in a process of its own, in a memory cgroup if one is
// given: nothing of it is in memory before, every segment is kept, and what was
// noted of receipts is taken back afterwards.
func (b *bench) child(dir, group string) (r drained, err error) {
	if err := forget(dir); err != nil {
		return r, err
	}
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	cmd := exec.Command(self, drainCommand, dir)
	if group != "" {
		cmd = exec.Command("/bin/sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$1" "$2" "$3"`, group, self, drainCommand, dir)
	}
	cmd.Stderr = os.Stderr
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		return r, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case err := <-done:
			var n, seconds float64
			if err == nil {
				_, err = fmt.Sscanf(out.String(), "%f %f", &n, &seconds)
			}
			r.rate = n / seconds
			return r, errors.Join(err, b.unreceipt(dir))
		case <-time.After(20 * time.Millisecond):
			a, m := look(cmd.Process.Pid, dir)
			r.anon, r.maps = max(r.anon, a), max(r.maps, m)
		}
	}
}

// forget has the kernel drop what it has in memory of the files of a folder: pages
// that are there already are not charged to the cgroup that reads them.
func forget(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return err
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// unreceipt removes the segments of the draining process itself, which alone say
// what was receipted.
func (b *bench) unreceipt(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	for _, name := range names {
		if !strings.HasPrefix(filepath.Base(name), "1-") {
			err = errors.Join(err, os.Remove(name))
		}
	}
	return err
}

// look returns a process's anonymous memory and how many segments it has mapped.
func look(pid int, dir string) (anon, maps int64) {
	proc := "/proc/" + strconv.Itoa(pid)
	if f, err := os.Open(proc + "/status"); err == nil {
		for s := bufio.NewScanner(f); s.Scan(); {
			if v, ok := strings.CutPrefix(s.Text(), "RssAnon:"); ok {
				kb, _ := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
				anon = kb << 10
			}
		}
		_ = f.Close()
	}
	seen := map[string]bool{}
	if f, err := os.Open(proc + "/maps"); err == nil {
		for s := bufio.NewScanner(f); s.Scan(); {
			if i := strings.Index(s.Text(), dir+"/"); i >= 0 {
				seen[s.Text()[i:]] = true
			}
		}
		_ = f.Close()
	}
	return anon, int64(len(seen))
}
