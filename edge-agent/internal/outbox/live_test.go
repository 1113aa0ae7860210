package outbox

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/outbox/boltpage"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// sized makes items whose payloads have some sizes.
func sized(tb testing.TB, sizes ...int) []item {
	tb.Helper()
	out := make([]item, len(sizes))
	for i, n := range sizes {
		d := Draft{Reading: &telemetry.Reading{Topic: "t", Payload: make([]byte, n)}}
		rec, err := d.record()
		if err != nil {
			tb.Fatal(err)
		}
		out[i] = item{rec: rec, size: recordSize(&rec), done: func(uint64, error) {}}
	}
	return out
}

// A commit never takes more room in its file than was reckoned, whatever the sizes
// of its records: the room for it was set aside before.
func TestCommitsStayWithinTheirEstimate(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 11))
	sizes := func(n int, of func() int) []int {
		out := make([]int, n)
		for i := range out {
			out[i] = of()
		}
		return out
	}
	kinds := map[string]func() []int{
		"small":           func() []int { return sizes(1+rng.IntN(900), func() int { return rng.IntN(300) }) },
		"half a page":     func() []int { return sizes(1+rng.IntN(200), func() int { return 1990 + rng.IntN(60) }) },
		"a page":          func() []int { return sizes(1+rng.IntN(60), func() int { return 4000 + rng.IntN(200) }) },
		"large":           func() []int { return sizes(1+rng.IntN(5), func() int { return rng.IntN(100_000) }) },
		"of every size":   func() []int { return sizes(1+rng.IntN(60), func() int { return 1 << rng.IntN(14) }) },
		"one":             func() []int { return []int{rng.IntN(telemetry.MaxPayload)} },
		"just over small": func() []int { return sizes(1+rng.IntN(500), func() int { return smallBlock - 60 + rng.IntN(60) }) },
		"just over large": func() []int { return sizes(1+rng.IntN(60), func() int { return largeBlock - 60 + rng.IntN(60) }) },
	}
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			box := still(t, Options{Dir: memoryDir(t), SegmentBytes: 32 << 20, MaxBytes: 1 << 30, noSync: true})
			commitSome(t, box, "begins")
			for range 25 {
				items := sized(t, kind()...)
				f, before, again := box.live, box.live.live.used, box.live.live.rewrites()
				if err := box.commit(items, false); err != nil {
					t.Fatal(err)
				}
				if box.live != f {
					continue // it went into the next segment
				}
				if grew := f.live.used - before; grew > estimate(items)+again {
					t.Fatalf("%d records took %d bytes, reckoned with %d and %d", len(items), grew, estimate(items), again)
				}
			}
		})
	}
}

// Records of a kind take little more than their bytes, the more so the more come
// together.
func TestLargerCommitsPackTighter(t *testing.T) {
	perRecord := map[int]float64{}
	for _, batch := range []int{32, 256, 1024} {
		box := still(t, Options{Dir: memoryDir(t), SegmentBytes: 64 << 20, MaxBytes: 1 << 30, noSync: true})
		commitSome(t, box, "begins")
		sizes := make([]int, batch)
		for i := range sizes {
			sizes[i] = 256
		}
		before := box.live.live.used
		const commits = 40
		for range commits {
			if err := box.commit(sized(t, sizes...), false); err != nil {
				t.Fatal(err)
			}
		}
		perRecord[batch] = float64(box.live.live.used-before) / float64(batch*commits)
	}
	t.Logf("bytes a record of 256, by batch: %v", perRecord)
	if perRecord[256] > 300 || perRecord[1024] > 285 || perRecord[32] > 420 {
		t.Fatalf("bytes a record of 256, by batch: %v", perRecord)
	}
}

// Blocks of each size fill pages with their keys as they are meant to.
func TestBlocksFillPages(t *testing.T) {
	const header, element, key = 16, 16, 8
	for _, c := range []struct{ block, keys, pages int }{{smallBlock, 4, 1}, {mediumBlock, 2, 1}, {largeBlock, 2, 4}} {
		took := header + c.keys*(element+key+c.block)
		if room := c.pages * boltpage.PageSize; took > room || took < room-64 {
			t.Errorf("%d blocks of %d take %d of %d", c.keys, c.block, took, room)
		}
	}
	last := 0
	for commit := 0; commit < 1<<20; commit += 1 << 10 {
		if b := blockBytes(commit); b < last {
			t.Fatalf("a commit of %d has smaller blocks than one before", commit)
		} else {
			last = b
		}
	}
}

// Damage to one record of a large block takes that record, or at most what comes
// after it in its block; the records of other blocks are saved.
func TestDamageInLargeBlockStaysThere(t *testing.T) {
	x := open(t, Options{Dir: memoryDir(t), SegmentBytes: 4 << 20, noSync: true})
	var drafts []Draft
	for i := range 1000 {
		drafts = append(drafts, reading("t", fmt.Sprintf("number %4d%0245d", i, 0)))
	}
	x.append(drafts...)
	e := x.Epochs()[0]
	x.end()
	path := newest(t, x.opts.Dir)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := -1
	for i := bytes.Index(file, []byte("number  500")); i >= 0; i = bytes.Index(file, []byte("number  500")) {
		at, file[i] = i, 'X'
	}
	if at < 0 {
		t.Fatal("the record is not there")
	}
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	x = open(t, Options{Dir: x.opts.Dir, SegmentBytes: 4 << 20, noSync: true})
	x.append(reading("t", "after"))
	x.all(e.Epoch) // finds it
	eventually(t, "the damaged segment stays", func() bool { return x.Stats().Quarantined == 1 })
	if n := len(x.all(e.Epoch)); n != 1000 {
		t.Fatalf("%d records of 1001 are left: %+v", n, x.losses())
	}
	if l := x.losses(); len(l) != 1 || l[0].Seqs != (telemetry.Range{First: 502, Last: 502}) {
		t.Fatalf("%+v", l)
	}
}

// Want of room is told from other failures, and only where nothing was synced.
func TestNoSpaceIsToldApart(t *testing.T) {
	path := func(errno syscall.Errno) error { return &fs.PathError{Op: "write", Path: "x", Err: errno} }
	for err, want := range map[error]bool{
		path(syscall.ENOSPC): true, path(syscall.EDQUOT): true, fmt.Errorf("commit: %w", path(syscall.ENOSPC)): true,
		path(syscall.EIO): false, syscall.ENOSPC: false, errors.New("no space"): false,
	} {
		if noSpace(err) != want {
			t.Errorf("%v: %t", err, !want)
		}
	}
	if noSpace(nil) {
		t.Error("no error is want of room")
	}
}

// A panic and a fault on memory become errors, and what went before is not undone.
func TestGuardMakesErrors(t *testing.T) {
	if err := guard(func() error { panic("bad page") }); !errors.Is(err, errPanic) {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "mapped")
	if err := os.WriteFile(file, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := syscall.Mmap(int(f.Fd()), 0, 8192, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		t.Skip(err)
	}
	defer func() { _ = syscall.Munmap(m) }()
	if err := os.Truncate(file, 0); err != nil {
		t.Fatal(err)
	}
	sum := byte(0)
	if err := guard(func() error { sum += m[5000]; return nil }); !errors.Is(err, errPanic) {
		t.Fatalf("a page that is not there: %v, %d", err, sum)
	}
	if err := guard(func() error { return errNoRoom }); !errors.Is(err, errNoRoom) {
		t.Fatal(err)
	}
}

// The dictionary's numbers are those of the segment: topics are right in every one
// of several segments, also beyond what a dictionary takes.
func TestTopicsAreRightInEverySegment(t *testing.T) {
	dir := memoryDir(t)
	x := open(t, Options{Dir: dir, SegmentBytes: small, noSync: true})
	topic := func(i int) string { return fmt.Sprintf("site/%d/room/%d/value", i%7, i) }
	n := maxTopics + 500
	for i := 0; i < n; i += 100 {
		var drafts []Draft
		for j := i; j < i+100; j++ {
			drafts = append(drafts, reading(topic(j%n), fmt.Sprint(j)), reading("same", fmt.Sprint(j)))
		}
		x.append(drafts...)
	}
	e := x.Stats().Epoch
	x.end()
	x = open(t, Options{Dir: dir, SegmentBytes: small, noSync: true})
	seen := 0
	for _, rec := range x.all(e) {
		if rec.Reading == nil || rec.Reading.Topic == "same" {
			continue
		}
		var i int
		if _, err := fmt.Sscan(string(rec.Reading.Payload), &i); err != nil || rec.Reading.Topic != topic(i%n) {
			t.Fatalf("reading %s came under %q", rec.Reading.Payload, rec.Reading.Topic)
		}
		seen++
	}
	if seen < n || x.Stats().Segments < 3 {
		t.Fatalf("%d topics in %d segments", seen, x.Stats().Segments)
	}
}
