// Needs the FUSE disk of package powercut, which go-fuse 2.12.1 does not compile
// for on 32-bit ARM and which emulated processes cannot serve; what these tests
// hold the outbox to does not depend on the processor.

//go:build amd64

package outbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/outbox/boltpage"
	"github.com/holdfast-edge/holdfast/edge-agent/powercut"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// past is a folder that earlier lives left behind, and what they acknowledged.
type past struct {
	dir   string
	acked map[telemetry.Epoch]map[uint64]string
}

// longPast makes a folder of five short lives, one of several segments, and one that
// was cut off over its segment.
func longPast(tb testing.TB) *past {
	tb.Helper()
	p := &past{dir: memoryDir(tb), acked: map[telemetry.Epoch]map[uint64]string{}}
	for life := range 7 {
		x := open(tb, Options{Dir: p.dir, SegmentBytes: minSegment, MaxBytes: 8 << 20, packFrom: 1 << 20, unclean: life == 6, noSync: true})
		e := x.Stats().Epoch
		p.acked[e] = map[uint64]string{}
		n := 3
		if life == 5 {
			n = 120
		}
		for i := range n {
			text := fmt.Sprintf("%s/past/%d/%s", e, i, strings.Repeat("o", 2000))
			p.acked[e][x.append(reading("past", text))] = text
		}
		x.end()
	}
	return p
}

// putBack puts a past on the disk, all of it durable, and has the machine know it.
func (m *machine) putBack(p *past) {
	m.tb.Helper()
	if err := os.MkdirAll(m.job.Dir, 0o700); err != nil {
		m.tb.Fatal(err)
	}
	copyDir(m.tb, p.dir, m.job.Dir)
	entries, err := os.ReadDir(m.job.Dir)
	if err != nil {
		m.tb.Fatal(err)
	}
	paths := []string{m.dir, m.job.Dir}
	for _, d := range entries {
		paths = append(paths, filepath.Join(m.job.Dir, d.Name()))
	}
	for _, path := range paths {
		if err := syncDir(path); err != nil { // which syncs a file as well
			m.tb.Fatal(err)
		}
	}
	for e, known := range p.acked {
		m.acked[e] = map[uint64]string{}
		for seq, text := range known {
			m.acked[e][seq] = text
		}
	}
}

// ordeal has a child open what a past left and go on while one operation fails, cuts
// the power, and checks that everything acknowledged in either life is accounted
// for. It reports whether the operation came up, and whether the child ended well.
func ordeal(t *testing.T, seed uint64, p *past, job errand, f *nth) (hit, done bool) {
	t.Helper()
	job.Do, job.Segment, job.Grace = "produce", minSegment, 50*time.Millisecond
	m := newMachine(t, seed, job)
	m.putBack(p)
	done = m.outlive(t, f)
	missing := m.check()
	for try := 0; missing > 0 && job.Losing && try < 5; try++ {
		missing = m.check() // a damaged file may have been set aside while it was read
	}
	if missing > 0 {
		t.Fatalf("%s %d of %q, %v: %d acknowledged records are missing; the child said %.200s", f.op, f.n, f.name, f.errno, missing, fmt.Sprint(m.fails))
	}
	if !f.hit && !done {
		t.Fatalf("nothing failed, and yet: %q", m.fails)
	}
	if f.hit && f.op == powercut.Sync && f.errno == syscall.EIO && done {
		t.Fatalf("a failed fsync of %s did not end it", f.name)
	}
	if err := m.disk.Unmount(); err != nil {
		t.Fatal(err)
	}
	return f.hit, done
}

// ordeals goes through operations, errors and n = 1, 2, 3 … until an operation comes
// up no more.
func ordeals(t *testing.T, only string, p *past, job errand, ops []powercut.Op) {
	t.Helper()
	needFUSE(t)
	most := envInt(t, "OUTBOX_FAULTS", 1, 3)
	seed := seeded(t)
	for _, op := range ops {
		for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
			t.Run(fmt.Sprintf("%s/%d", op, errno), func(t *testing.T) {
				for n := 1; n <= most; n++ {
					hit, done := ordeal(t, seed, p, job, &nth{op: op, n: n, errno: errno, only: only})
					if !hit {
						break
					}
					if only == prefixPack && errno == syscall.ENOSPC && (op == powercut.Create || op == powercut.Write || op == powercut.Truncate) && !done {
						t.Fatalf("want of room for a pack ended it, at %s %d", op, n)
					}
				}
			})
		}
	}
}

// Whatever fails while a folder is opened that another life was killed over, nothing
// that any life acknowledged is missing afterwards.
func TestFailingDiskAtRestart(t *testing.T) {
	ordeals(t, "", longPast(t), errand{Max: 8 << 20, Limit: 10, PackFrom: 1 << 20},
		[]powercut.Op{powercut.Open, powercut.Read, powercut.Sync, powercut.Truncate, powercut.Rename, powercut.SyncDir, powercut.Write, powercut.Create, powercut.Allocate})
}

// Whatever fails of a pack, what was to be packed stays where it is; and want of
// room for one ends nothing, since nothing hangs on it.
func TestFailingDiskWhilePacking(t *testing.T) {
	ordeals(t, prefixPack, longPast(t), errand{Max: 8 << 20, Limit: 10, PackFrom: 3},
		[]powercut.Op{powercut.Create, powercut.Write, powercut.Truncate, powercut.Sync, powercut.Rename})
}

// Whatever fails while segments are dropped for room, each is there until a durable
// loss record says that it is not.
func TestFailingDiskWhileDropping(t *testing.T) {
	ordeals(t, "", longPast(t), errand{Max: 4 * minSegment, Full: DropOldest, Limit: 150, PackFrom: 1 << 20, Losing: true},
		[]powercut.Op{powercut.Unlink, powercut.Write, powercut.Sync, powercut.SyncDir, powercut.Rename})
}

// Whatever fails while a damaged segment is set aside, what can be saved of it is
// saved then or later, and the rest has a loss record.
func TestFailingDiskWhileSalvaging(t *testing.T) {
	p := longPast(t)
	names, _ := filepath.Glob(filepath.Join(p.dir, "6-*"+suffixSegment))
	if len(names) < 2 {
		t.Fatal(names)
	}
	data, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	clear(data[5*boltpage.PageSize : 9*boltpage.PageSize])
	if err := os.WriteFile(names[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	// Packing finds it out: reading is the dump's, after the fault.
	ordeals(t, "", p, errand{Max: 8 << 20, Limit: 10, PackFrom: 3, Losing: true},
		[]powercut.Op{powercut.Rename, powercut.Write, powercut.Sync, powercut.SyncDir, powercut.Unlink})
}

// What a reader is shown after a restart is durable, also the last commit of a
// process that was killed before the fsync of it came back.
func TestRestartShowsOnlyWhatIsDurable(t *testing.T) {
	seed := seeded(t)
	for i := range envInt(t, "OUTBOX_GLIMPSES", 2, 10) {
		m := newMachine(t, seed+uint64(i), errand{Do: "produce", Segment: 256 << 10, Max: 64 << 20})
		reached, killed := make(chan struct{}), make(chan struct{})
		var mu sync.Mutex
		syncs := 0
		m.disk.SetFault(func(op powercut.Op, name string) syscall.Errno {
			if op != powercut.Sync || name == nameLock {
				return 0
			}
			mu.Lock()
			syncs++
			due := syncs == 8+i // of pages, or of the meta page, by turns
			mu.Unlock()
			if !due {
				return 0
			}
			close(reached)
			<-killed
			return syscall.EIO
		})
		c := startChild(t, m.job)
		go func() {
			<-reached
			_ = c.cmd.Process.Kill()
			close(killed)
		}()
		for l := range c.lines {
			m.note(l)
		}
		c.end()
		m.disk.SetFault(nil)
		m.check()
		shown := m.seen
		m.disk.Cut()
		m.reboot()
		if missing := m.check(); missing > 0 {
			t.Fatalf("%d acknowledged records are missing", missing)
		}
		for e, known := range shown {
			for seq := range known {
				if text := m.text[e][seq]; !m.seen[e][seq] && text != "dump" {
					t.Fatalf("epoch %s seq %d was shown after the restart, and a power cut took it away", e, seq)
				}
			}
		}
	}
}

// After an fsync failed every acknowledgement that is still due is refused with the
// reason, nothing is taken any more, and nobody ever sees what it was to make durable.
func TestFailedFsyncEndsAcknowledgements(t *testing.T) {
	m := newMachine(t, seeded(t), errand{Do: "produce", Segment: 256 << 10, Max: 64 << 20, Watch: true})
	f := &nth{op: powercut.Sync, n: 14, errno: syscall.EIO}
	m.disk.SetFault(f.fault)
	c := startChild(t, m.job)
	var refused, ended, highest uint64
	for l := range c.lines {
		m.note(l)
		switch l[0] {
		case "F":
			refused++
			if !strings.Contains(l[4], "input/output error") {
				t.Errorf("refused without the reason: %q", l[4])
			}
		case "A":
			if refused > 0 {
				t.Fatal("acknowledged after it refused")
			}
			_, highest = m.parse(l)
		case "V":
			if _, seen := m.parse(l); refused > 0 && seen > highest {
				t.Errorf("seq %d was seen, %d is the last that was acknowledged", seen, highest)
			}
		case "E":
			ended++
			if !strings.Contains(l[4], "must stop") {
				t.Errorf("it ended with %q", l[4])
			}
		}
	}
	c.end()
	if refused == 0 || ended != 1 || f.resync > 0 {
		t.Fatalf("%d refused, ended %d times, %d more fsyncs of the file", refused, ended, f.resync)
	}
}

// While the disk syncs slowly, what producers submit meanwhile shares the next commit.
func TestSlowDiskGathersCommits(t *testing.T) {
	m := newMachine(t, seeded(t), errand{Do: "produce", Segment: 1 << 20, Max: 64 << 20, Limit: 100})
	var mu sync.Mutex
	syncs := 0
	m.disk.SetFault(func(op powercut.Op, _ string) syscall.Errno {
		if op == powercut.Sync {
			mu.Lock()
			syncs++
			mu.Unlock()
			time.Sleep(30 * time.Millisecond)
		}
		return 0
	})
	c := startChild(t, m.job)
	for l := range c.lines {
		m.note(l)
	}
	c.end()
	m.disk.SetFault(nil)
	if commits := syncs / 2; m.total != 300 || commits > 300/4 {
		t.Fatalf("%d readings took %d commits: %q", m.total, commits, m.fails)
	}
	if missing := m.check(); missing > 0 {
		t.Fatalf("%d acknowledged records are missing", missing)
	}
}

// An agent that starts on a disk that others have filled meanwhile goes on: the room
// that the life before set aside is still its own.
func TestRestartOnFullDiskGoesOn(t *testing.T) {
	m := newMachine(t, seeded(t), errand{Do: "produce", Segment: 256 << 10, Max: 2 << 20, Limit: 200, Full: DropOldest, Losing: true})
	m.disk.SetCapacity(8 << 20)
	first := startChild(t, m.job)
	for l := range first.lines {
		m.note(l)
	}
	first.end()
	filler, err := os.Create(filepath.Join(m.dir, "somebody else's"))
	if err != nil {
		t.Fatal(err)
	}
	for page := bytes.Repeat([]byte{1}, boltpage.PageSize); err == nil; {
		_, err = filler.Write(page)
	}
	if !errors.Is(err, syscall.ENOSPC) || filler.Close() != nil {
		t.Fatal(err)
	}
	before := m.total
	second := startChild(t, m.job)
	for l := range second.lines {
		m.note(l)
	}
	second.end()
	if len(m.fails) > 0 || m.total-before < 3*m.job.Limit {
		t.Fatalf("on a full disk %d records were taken: %q", m.total-before, m.fails)
	}
	if missing := m.check(); missing > 0 {
		t.Fatalf("%d acknowledged records are missing", missing)
	}
}
