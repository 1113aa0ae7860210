// Needs the FUSE disk of package powercut, which go-fuse 2.12.1 does not compile
// for on 32-bit ARM and which emulated processes cannot serve; what these tests
// hold the outbox to does not depend on the processor.

//go:build amd64

package outbox

import (
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/powercut"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// nth fails the n-th operation of a kind, once, and counts what comes after.
type nth struct {
	mu     sync.Mutex
	op     powercut.Op
	n      int
	errno  syscall.Errno
	only   string // files whose names begin so; empty: all
	seen   int
	hit    bool
	name   string // of the file it hit
	resync int    // fsyncs of that file after one of them failed
}

func (f *nth) fault(op powercut.Op, name string) syscall.Errno {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hit && f.op == powercut.Sync && op == powercut.Sync && name == f.name {
		f.resync++
	}
	if op != f.op || !strings.HasPrefix(name, f.only) {
		return 0
	}
	if f.seen++; f.seen == f.n {
		f.hit, f.name = true, name
		return f.errno
	}
	return 0
}

// outlive lets a child work on a disk that fails as f says, and cuts the power when
// the child has ended. It reports whether that did all it was to do.
func (m *machine) outlive(t *testing.T, f *nth) (done bool) {
	t.Helper()
	m.disk.SetFault(f.fault)
	c := startChild(t, m.job)
	for l := range c.lines {
		m.note(l)
		done = done || l[0] == "D"
	}
	c.end()
	m.disk.SetFault(nil)
	m.disk.Cut()
	m.reboot()
	return done
}

// hurt lets a child write a few hundred records while one operation fails, cuts
// the power after it, and checks what is left. It reports whether the operation
// came up at all.
func hurt(t *testing.T, seed uint64, op powercut.Op, n int, errno syscall.Errno) bool {
	t.Helper()
	m := newMachine(t, seed, errand{Do: "produce", Segment: 256 << 10, Max: 8 << 20, Limit: 400, Grace: 50 * time.Millisecond, Confirm: n%2 == 0})
	f := &nth{op: op, n: n, errno: errno}
	done := m.outlive(t, f)
	if missing := m.check(); missing > 0 {
		t.Fatalf("%d acknowledged records are missing", missing)
	}
	if !f.hit {
		if !done || len(m.fails) > 0 {
			t.Fatalf("nothing failed, and yet: %q", m.fails)
		}
		return false
	}
	if op == powercut.Sync && (done || f.resync > 0) {
		t.Fatalf("after a failed fsync of %s: ended by itself %t, synced again %d times", f.name, done, f.resync)
	}
	if errno == syscall.ENOSPC && (op == powercut.Write || op == powercut.Allocate) && !done {
		t.Fatalf("want of room at %s of %s ended it: %q", op, f.name, m.fails)
	}
	return true
}

// Whatever operation of the disk fails, and whichever of its kind, what was
// acknowledged is there afterwards. A failed fsync ends the process and is not
// tried again; want of room before one does not end it.
func TestFailingDiskLosesNothingAcknowledged(t *testing.T) {
	needFUSE(t)
	most := envInt(t, "OUTBOX_FAULTS", 2, 5)
	seed := seeded(t)
	ops := []powercut.Op{powercut.Write, powercut.Sync, powercut.Truncate, powercut.Rename}
	if most > 10 {
		ops = append(ops, powercut.Create, powercut.Open, powercut.Read, powercut.SyncDir, powercut.Unlink, powercut.Allocate)
	}
	for _, op := range ops {
		for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
			t.Run(fmt.Sprintf("%s/%d", op, errno), func(t *testing.T) {
				for n := 1; n <= most; n++ {
					if !hurt(t, seed, op, n, errno) {
						break
					}
				}
			})
		}
	}
}

// Records on a disk that fills up are refused and not lost, and taken again when
// there is room.
func TestFullDiskRefusesAndRecovers(t *testing.T) {
	m := newMachine(t, seeded(t), errand{Do: "produce", Segment: 256 << 10, Max: 64 << 20, Grace: 100 * time.Millisecond})
	m.disk.SetCapacity(2 << 20)
	c := startChild(t, m.job)
	for l := range c.lines {
		m.note(l)
	}
	c.end()
	for _, f := range m.fails {
		if !strings.Contains(f, ErrFull.Error()) {
			t.Fatalf("a full disk gave %q", m.fails)
		}
	}
	if m.total < 1000 {
		t.Fatalf("only %d records fitted on 2 MiB", m.total)
	}
	m.fails = nil
	m.disk.SetCapacity(4 << 20)
	m.job.Limit = 100
	before := m.total
	c = startChild(t, m.job)
	for l := range c.lines {
		m.note(l)
	}
	c.end()
	if len(m.fails) > 0 || m.total-before < 300 {
		t.Fatalf("with room again: %d records, %q", m.total-before, m.fails)
	}
	if missing := m.check(); missing > 0 {
		t.Fatalf("%d acknowledged records are missing", missing)
	}
}

// glimpse has a child write over slow fsyncs, one of which may fail, and read
// meanwhile; cuts the power just after something was seen; and reports whether
// all that was seen is there.
func glimpse(t *testing.T, seed uint64, unfenced, failing bool) bool {
	t.Helper()
	m := newMachine(t, seed, errand{Do: "produce", Segment: 1 << 20, Max: 64 << 20, Watch: true, Unfenced: unfenced})
	syncs := 0
	var mu sync.Mutex
	stop := 12 + m.rng.IntN(12)
	m.disk.SetFault(func(op powercut.Op, _ string) syscall.Errno {
		if op != powercut.Sync {
			return 0
		}
		time.Sleep(5 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		if syncs++; failing && syncs == stop {
			return syscall.EIO
		}
		return 0
	})
	c := startChild(t, m.job)
	var e telemetry.Epoch
	var seen uint64
	views, enough := 0, 5+m.rng.IntN(8)
	for l := range c.lines {
		if l[0] == "V" {
			e, seen = m.parse(l)
			if views++; !failing && views == enough {
				m.disk.Cut()
				break
			}
		}
	}
	if failing {
		for l := range c.lines {
			if l[0] == "V" {
				e, seen = m.parse(l)
			}
		}
		m.disk.Cut()
	}
	_ = c.cmd.Process.Kill()
	for range c.lines { // until it has ended
	}
	c.end()
	m.disk.SetFault(nil)
	m.reboot()
	m.check()
	_, ok := m.text[e][seen]
	return ok
}

// A reader never sees what is not durable: not while an fsync is under way, and
// not after one that failed.
func TestReadersNeverPassTheFence(t *testing.T) {
	needFUSE(t)
	seed := seeded(t)
	for i := range uint64(envInt(t, "OUTBOX_GLIMPSES", 1, 4)) {
		if !glimpse(t, seed+i, false, false) {
			t.Fatal("a reader saw a record that a power cut took away")
		}
		if !glimpse(t, seed+i, false, true) {
			t.Fatal("a reader saw a record whose fsync failed")
		}
	}
}

// Without the fence a reader does: the test above sees what it should.
func TestWithoutFenceReadersSeeTooMuch(t *testing.T) {
	needFUSE(t)
	seed := seeded(t)
	for i := range uint64(30) {
		if !glimpse(t, seed+i, true, i%2 == 1) {
			return
		}
	}
	t.Fatal("bbolt showed nothing that was not durable: the test of the fence shows nothing")
}
