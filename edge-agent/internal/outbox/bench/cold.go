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
)

// fillQueue fills an outbox with b.queue bytes of payload.
func (b *bench) fillQueue(dir string) error {
	x, err := openBox(dir, nil)
	if err != nil {
		return err
	}
	return errors.Join(fillBox(x, int(b.queue/payload)), x.stop())
}

// open measures how long a device with a backlog takes until it acknowledges.
func (b *bench) open() error {
	im, err := b.newImage(b.queue + b.queue/2 + 512<<20)
	if errors.Is(err, errNoLoop) {
		b.add("open with a backlog", 0, "", "", true, "not measured: "+err.Error())
		return nil
	}
	if err != nil {
		return err
	}
	dir := filepath.Join(im.at, "outbox")
	if err := b.fillQueue(dir); err != nil {
		return errors.Join(err, im.remove())
	}
	var times []float64
	var most int64
	for range 5 {
		if err := im.chill(); err != nil {
			return err
		}
		before, _, err := im.bytes()
		if err != nil {
			return err
		}
		start := time.Now()
		x, err := openBox(dir, nil)
		if err != nil {
			return err
		}
		if _, err := x.Append(context.Background(), drafts(1)...); err != nil {
			return err
		}
		times = append(times, time.Since(start).Seconds())
		after, _, err := im.bytes()
		if err = errors.Join(err, x.stop()); err != nil {
			return err
		}
		most = max(most, after-before)
	}
	t := median(times)
	b.add(fmt.Sprintf("open with %.1f GB queued, cold: first acknowledgement", float64(b.queue)/1e9), t, "s", "≤ 1", t <= 1, "median of 5")
	b.add("the same: read from the device", float64(most)/1e6, "MB", "≤ 128", most <= 128e6, "most of 5")
	return im.remove()
}

// memory measures what draining a backlog takes, in a process of its own, and how
// much slower it is where memory is short.
func (b *bench) memory() error {
	dir, err := b.fresh("queue")
	if err != nil {
		return err
	}
	if err := b.fillQueue(dir); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	free, short := "", filepath.Join("/sys/fs/cgroup/memory", "holdfast-bench-"+strconv.Itoa(os.Getpid()))
	var anon, maps int64
	var tight []float64
	var wide []float64
	limited := makeGroup(short, 64<<20) == nil
	for range 3 {
		r, a, m, err := b.child(self, dir, free)
		if err != nil {
			return err
		}
		wide, anon, maps = append(wide, r), max(anon, a), max(maps, m)
		if limited {
			if r, _, _, err = b.child(self, dir, short); err != nil {
				return errors.Join(err, os.Remove(short))
			}
			tight = append(tight, r)
		}
	}
	b.add(fmt.Sprintf("draining %.1f GB: RssAnon at most", float64(b.queue)/1e9), float64(anon)/1e6, "MB", "≤ 24", anon <= 24e6, fmt.Sprintf("%.0f records/s", median(wide)))
	b.add("the same: segments mapped at most", float64(maps), "files", "≤ 2", maps <= 2, "")
	if !limited {
		b.add("the same in a cgroup of 64 MiB", 0, "", "", true, "not measured: no memory cgroup (v1) to be had")
		return nil
	}
	slow := 1 - median(tight)/median(wide)
	b.add("the same in a cgroup of 64 MiB: slower by", slow*100, "%", "≤ 20", slow <= 0.2, fmt.Sprintf("%.0f records/s", median(tight)))
	return os.Remove(short)
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

// child drains a copy-free outbox in a process of its own: every segment is kept,
// and what it noted of receipts is put back afterwards.
func (b *bench) child(self, dir, group string) (rate float64, anon, maps int64, err error) {
	cmd := exec.Command(self, "drain-child", dir)
	if group != "" {
		cmd = exec.Command("/bin/sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$1" drain-child "$2"`, group, self, dir)
	}
	cmd.Stderr = os.Stderr
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		return 0, 0, 0, err
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
			return n / seconds, anon, maps, errors.Join(err, b.unreceipt(dir))
		case <-time.After(20 * time.Millisecond):
			a, m := look(cmd.Process.Pid, dir)
			anon, maps = max(anon, a), max(maps, m)
		}
	}
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
