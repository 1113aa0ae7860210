package outbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

// All verbs are called at once from many goroutines: readings come out as they were
// appended, and in the end everything that was acknowledged is accounted for.
func TestVerbsBesideEachOther(t *testing.T) {
	x := open(t, Options{Dir: memoryDir(t), SegmentBytes: small, MaxBytes: 64 << 20, KeepBytes: small, noSync: true})
	x.append(reading("t", "begins"))
	e := x.Stats().Epoch
	ctx, stop := context.WithCancel(t.Context())
	var mu sync.Mutex
	acked := map[uint64]string{}
	var producers, others sync.WaitGroup
	for who := range 4 {
		producers.Go(func() {
			for i := range 150 {
				text := fmt.Sprintf("%d/%d/%s", who, i, strings.Repeat("v", 1500))
				seq, err := x.Append(ctx, reading("t", text))
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				mu.Lock()
				acked[seq] = text
				mu.Unlock()
			}
		})
	}
	again := func(act func(rng *rand.Rand)) {
		seed := rand.Uint64()
		others.Go(func() {
			for rng := rand.New(rand.NewPCG(seed, 9)); ctx.Err() == nil; {
				act(rng)
			}
		})
	}
	some := func(rng *rand.Rand) telemetry.Range {
		first := 1 + rng.Uint64N(x.Stats().Durable)
		return seqs(first, min(x.Stats().Durable, first+rng.Uint64N(50)))
	}
	for range 2 {
		again(func(rng *rand.Rand) {
			recs, err := x.Read(ctx, e, some(rng).First, 40, 1<<16)
			if err != nil && ctx.Err() == nil {
				t.Errorf("read: %v", err)
			}
			for i := range recs {
				if recs[i].Seq != recs[0].Seq+uint64(i) {
					t.Errorf("%d at place %d from %d", recs[i].Seq, i, recs[0].Seq)
				}
			}
		})
	}
	var held ranges.Set
	issue := issued
	again(func(rng *rand.Rand) {
		issue = issue.Add(time.Second)
		r := some(rng)
		mu.Lock()
		held = held.Add(r)
		mu.Unlock()
		x.trim(e, issue, r)
		time.Sleep(time.Millisecond)
	})
	again(func(rng *rand.Rand) {
		if err := x.Again(e, some(rng)); err != nil {
			t.Errorf("again: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	})
	again(func(rng *rand.Rand) {
		r := some(rng)
		err := x.Explain(ctx, telemetry.Loss{Epoch: e, Seqs: r, Reason: telemetry.ReasonUnknown, Count: r.Len()})
		if err != nil && !errors.Is(err, ErrDraft) && ctx.Err() == nil {
			t.Errorf("explain: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	})
	again(func(*rand.Rand) {
		x.Flush()
		_ = x.Epochs()
		select {
		case <-x.Wait():
		case <-ctx.Done():
		}
	})
	producers.Wait()
	stop()
	others.Wait()
	there, lost := ranges.Set{}, ranges.Set{}
	for _, rec := range x.all(e) {
		there = there.Add(seqs(rec.Seq, rec.Seq))
		if rec.Reading != nil && acked[rec.Seq] != "" && acked[rec.Seq] != string(rec.Reading.Payload) {
			t.Fatalf("seq %d is %.20q, acknowledged was %.20q", rec.Seq, rec.Reading.Payload, acked[rec.Seq])
		}
		if rec.Loss != nil {
			lost = lost.Add(rec.Loss.Seqs)
		}
	}
	for seq := range acked {
		if one := seqs(seq, seq); !there.Covers(one) && !held.Covers(one) && !lost.Covers(one) {
			t.Fatalf("seq %d was acknowledged, and nothing accounts for it", seq)
		}
	}
}

// Wait's channel is closed by a commit, by a receipt, by what the cloud asks for and
// by a segment that is set aside, and by nothing when nothing happens.
func TestWaitWakesForEverythingNew(t *testing.T) {
	box := still(t, Options{Dir: memoryDir(t), SegmentBytes: small, noSync: true})
	commitSome(t, box, "1", "2", "3")
	e, f := box.current.id, box.live
	if err := box.roll(true); err != nil {
		t.Fatal(err)
	}
	receipt := telemetry.Receipt{Agent: "greenhouse-1", Issued: issued, Epochs: []telemetry.EpochReceipt{{Epoch: e, Watermark: 2}}}
	for _, c := range []struct {
		name  string
		act   func() error
		wakes bool
	}{
		{"nothing", func() error { return nil }, false},
		{"looking", func() error { box.Stats(); box.Epochs(); return nil }, false},
		{"a commit", func() error { commitSome(t, box, "4"); return nil }, true},
		{"a receipt", func() error { return box.Trim(receipt) }, true},
		{"a request", func() error { return box.Again(e, seqs(2, 2)) }, true},
		{"a quarantine", func() error { box.condemn(f, errDamaged); return box.quarantineAll() }, true},
	} {
		wait := box.Wait()
		if err := c.act(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		woke := false
		select {
		case <-wait:
			woke = true
		default:
		}
		if woke != c.wakes {
			t.Errorf("%s wakes: %t", c.name, woke)
		}
	}
}

// Starts form a chain: each names the epoch before and how far it went, through
// restarts of every kind, through epochs that are gone and through packs.
func TestStartsFormAChain(t *testing.T) {
	dir := memoryDir(t)
	var before telemetry.Epoch
	var last uint64
	clean := false
	for life := range 12 {
		x := open(t, Options{Dir: dir, unclean: life%3 == 1, packFrom: 3, noSync: true})
		if life%4 == 3 {
			x.end() // a life that appends nothing leaves no trace
			continue
		}
		drafts := make([]Draft, 1+life)
		for i := range drafts {
			drafts[i] = reading("t", fmt.Sprint(life, i))
		}
		x.append(drafts...)
		e := x.Stats().Epoch
		s := x.all(e)[0].Start
		if s.Previous != before || s.PreviousLast != last || s.PreviousClean != clean {
			t.Fatalf("life %d names %s up to %d, clean %t; want %s up to %d, %t", life, s.Previous, s.PreviousLast, s.PreviousClean, before, last, clean)
		}
		if e.Ordinal <= before.Ordinal {
			t.Fatalf("epoch %s follows %s", e, before)
		}
		before, last, clean = e, x.Stats().Durable, life%3 != 1
		x.trim(e, issued, seqs(1, last/2))
		x.end()
	}
}

// A folder of several epochs is emptied by receipts epoch by epoch, in any order, and
// what is left after each restart is exactly what was not receipted.
func TestReceiptsEmptyEpochsInAnyOrder(t *testing.T) {
	dir := memoryDir(t)
	want := lives(t, dir, 6)
	for len(want) > 0 {
		x := open(t, Options{Dir: dir, packFrom: 1 << 20, noSync: true})
		x.append(reading("t", "now"))
		own := x.Stats().Epoch
		for e, known := range want { // one of them, the map says which
			x.trim(e, time.Time{}, seqs(1, uint64(len(known))))
			delete(want, e)
			break
		}
		x.trim(own, time.Time{}, seqs(1, 2))
		x.end()
		x = open(t, Options{Dir: dir, packFrom: 1 << 20, noSync: true})
		x.append(reading("t", "after"))
		x.trim(x.Stats().Epoch, time.Time{}, seqs(1, 2))
		records := uint64(0)
		for _, known := range want {
			records += uint64(len(known))
		}
		if s := x.Stats(); s.Records != records {
			t.Fatalf("%d records wait, want %d", s.Records, records)
		}
		x.wantAll(want)
		x.end()
	}
}

// A file that is read stays open until its last reader is done, also when it was
// forgotten meanwhile, and no longer.
func TestHandlesCloseBehindTheirLastReader(t *testing.T) {
	x := segmented(t, 5, Options{noSync: true})
	x.mu.Lock()
	files := append([]*segment(nil), x.files[:4]...)
	x.mu.Unlock()
	closed := func(h *handle) bool { _, err := h.file.Stat(); return errors.Is(err, os.ErrClosed) }
	hs := &handles{}
	a, err := hs.get(x.Outbox, files[0])
	if err != nil {
		t.Fatal(err)
	}
	if b, err := hs.get(x.Outbox, files[0]); err != nil || b != a || a.users != 2 {
		t.Fatalf("the same file twice: %v", err)
	}
	hs.forget(files[0])
	hs.put(a)
	if closed(a) {
		t.Fatal("closed under a reader")
	}
	hs.put(a)
	if !closed(a) {
		t.Fatal("open without a reader")
	}
	var last *handle
	for _, f := range files {
		h, err := hs.get(x.Outbox, f)
		if err != nil {
			t.Fatal(err)
		}
		hs.put(h)
		last = h
	}
	if len(hs.open) != maxHandles || hs.open[0] != last || closed(last) {
		t.Fatalf("%d files are open", len(hs.open))
	}
	hs.closeAll()
	if len(hs.open) != 0 || !closed(last) {
		t.Fatal("closeAll left one open")
	}
	if _, err := hs.get(x.Outbox, &segment{name: "gone.seg"}); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a file that is not there: %v", err)
	}
}

// Verify names every hole that nothing accounts for, as where a whole file is gone,
// and none where receipts or loss records do.
func TestVerifyNamesHoles(t *testing.T) {
	dir := memoryDir(t)
	x := segmented(t, 6, Options{Dir: dir, noSync: true})
	e := x.Epochs()[0]
	x.mu.Lock()
	first, third, fourth := x.files[0].runs[0].seqs, x.files[2].runs[0].seqs, x.files[3].runs[0].seqs
	x.mu.Unlock()
	x.receipt(first.Last, issued)
	eventually(t, "the first segment stays", func() bool { return x.Epochs()[0].Lowest > 1 })
	x.end()
	var out bytes.Buffer
	if err := Verify(dir, &out); err != nil || strings.Contains(out.String(), "HOLE") {
		t.Fatalf("with nothing missing: %v\n%s", err, out.String())
	}
	for _, r := range []telemetry.Range{third, fourth} {
		if err := os.Remove(filepath.Join(dir, sealedName(e.Epoch, r))); err != nil {
			t.Fatal(err)
		}
	}
	out.Reset()
	want := fmt.Sprintf("HOLE     %s %d to %d:", e.Epoch, third.First, fourth.Last)
	if err := Verify(dir, &out); !errors.Is(err, ErrDamage) || strings.Count(out.String(), "HOLE") != 1 || !strings.Contains(out.String(), want) {
		t.Fatalf("%v\n%swant %s", err, out.String(), want)
	}
	x = open(t, Options{Dir: dir, SegmentBytes: small, noSync: true})
	x.append(reading("t", "the device learns it from the cloud"))
	x.again(e.Epoch, third.First, fourth.Last)
	eventually(t, "no answer", func() bool { return len(x.losses()) == 1 })
	x.end()
	out.Reset()
	if err := Verify(dir, &out); err != nil {
		t.Fatalf("explained: %v\n%s", err, out.String())
	}
}

// Stats of a folder in a reader agree with those of the outbox itself, for every
// epoch: records, readings, bytes, losses and receipts.
func TestPrintedStatsAgreeWithTheOutbox(t *testing.T) {
	dir := memoryDir(t)
	want := lives(t, dir, 5)
	x := open(t, Options{Dir: dir, packFrom: 1 << 20, noSync: true})
	x.append(reading("t", "now"), Draft{Oversized: &telemetry.Oversized{Topic: "big", Size: 9}})
	for e, known := range want {
		if e.Ordinal%2 == 0 {
			x.trim(e, issued, seqs(1, uint64(len(known))-1))
		}
	}
	x.append(reading("t", "the receipts are durable"))
	s := x.Stats()
	epochs := x.Epochs()
	lines := map[string][]string{}
	x.end()
	var out bytes.Buffer
	if err := PrintStats(dir, &out); err != nil {
		t.Fatal(err)
	}
	total := ""
	for l := range strings.Lines(out.String()) {
		if f := strings.Fields(l); len(f) == 7 && f[0] != "epoch" {
			lines[f[0]] = f
		} else if strings.Contains(l, "segments") {
			total = l
		}
	}
	for _, e := range epochs {
		f := lines[e.Epoch.String()]
		if f == nil || f[1] != fmt.Sprintf("%d-%d", e.Lowest, e.Durable) || f[2] != fmt.Sprint(e.Durable+1-e.Lowest) || f[6] != fmt.Sprint(e.Trimmed) {
			t.Errorf("epoch %+v: %v", e, f)
		}
	}
	if wantTotal := fmt.Sprintf("%d of them without a receipt", s.Records); !strings.Contains(total, wantTotal) {
		t.Errorf("%q, want %q", total, wantTotal)
	}
}

// The boot's id is that of the kernel, or zeros where there is none.
func TestBootIDIsTheKernels(t *testing.T) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Skip(err)
	}
	id := bootID()
	if got, want := fmt.Sprintf("%x", id[:]), strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""); got != want {
		t.Fatalf("%s, want %s", got, want)
	}
}
