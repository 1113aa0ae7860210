package outbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

// world is the model in memory that an outbox is held against: everything that
// was ever appended, what a pretended cloud receipted, and every loss record seen.
type world struct {
	tb     testing.TB
	rng    *rand.Rand
	opts   Options
	box    *opened
	epochs []telemetry.Epoch
	made   map[telemetry.Epoch]map[uint64]string // readings, by epoch and seq
	last   map[telemetry.Epoch]uint64
	acked  map[telemetry.Epoch]uint64              // highest seq that Append returned
	sent   map[string]telemetry.Epoch              // acknowledged readings not seen on the disk yet
	held   map[telemetry.Epoch]ranges.Set          // the cloud has these
	had    map[telemetry.Epoch]ranges.Set          // the cloud had these at some time
	lost   map[telemetry.Epoch]ranges.Set          // a loss record said so, at some time
	told   map[telemetry.EpochRange]telemetry.Loss // by the loss record's own epoch and seq
	issued time.Time
	count  int
	flips  int
}

func newWorld(tb testing.TB, seed uint64, opts Options) *world {
	w := &world{
		tb: tb, rng: rand.New(rand.NewPCG(seed, 1)), opts: opts,
		made: map[telemetry.Epoch]map[uint64]string{}, last: map[telemetry.Epoch]uint64{},
		acked: map[telemetry.Epoch]uint64{}, sent: map[string]telemetry.Epoch{},
		told: map[telemetry.EpochRange]telemetry.Loss{}, held: map[telemetry.Epoch]ranges.Set{}, had: map[telemetry.Epoch]ranges.Set{}, lost: map[telemetry.Epoch]ranges.Set{},
		issued: time.Unix(1_700_000_000, 0),
	}
	w.opts.Dir = memoryDir(tb)
	w.open()
	return w
}

func (w *world) open() {
	w.tb.Helper()
	w.box = open(w.tb, w.opts)
	w.epochs = append(w.epochs, w.box.Stats().Epoch)
	w.made[w.epochs[len(w.epochs)-1]] = map[uint64]string{}
}

func (w *world) current() telemetry.Epoch { return w.epochs[len(w.epochs)-1] }

// text is unlike any other reading's, now and then large.
func (w *world) text() string {
	w.count++
	n := w.rng.IntN(1500)
	if w.rng.IntN(40) == 0 {
		n = w.rng.IntN(40_000)
	}
	return strconv.Itoa(w.count) + ":" + string(bytes.Repeat([]byte{byte('a' + w.count%26)}, n))
}

func (w *world) appendSome() {
	e := w.current()
	n := 1 + w.rng.IntN(60)
	drafts := make([]Draft, n)
	for i := range drafts {
		drafts[i] = reading("t/"+strconv.Itoa(w.rng.IntN(9)), w.text())
		switch w.rng.IntN(60) {
		case 0:
			drafts[i] = Draft{Oversized: &telemetry.Oversized{Topic: strings.Repeat("o", w.rng.IntN(300)), Size: 1 << 20}}
		case 1:
			drafts[i] = Draft{Anchor: &telemetry.Anchor{Synchronised: w.rng.IntN(2) == 0}}
		}
	}
	last, err := w.box.Append(context.Background(), drafts...)
	if errors.Is(err, ErrFull) {
		w.learn() // some of them may be on the disk all the same
		return
	}
	if err != nil {
		w.tb.Fatalf("append: %v", err)
	}
	for _, d := range drafts {
		if d.Reading != nil {
			w.sent[string(d.Reading.Payload)] = e
		}
	}
	if last > w.acked[e] {
		w.acked[e] = last
	}
}

// learnFrom takes over what the outbox holds of an epoch from a seq on, holding it
// against what was known.
func (w *world) learnFrom(e telemetry.Epoch, from uint64) {
	w.tb.Helper()
	for {
		recs, err := w.box.Read(context.Background(), e, from, 1+w.rng.IntN(200), 1+w.rng.IntN(1<<17))
		if err != nil {
			w.tb.Fatalf("read: %v", err)
		}
		if len(recs) == 0 {
			return
		}
		for i, rec := range recs {
			if want := recs[0].Seq + uint64(i); rec.Seq != want || rec.Seq < from {
				w.tb.Fatalf("read from %d: seq %d at place %d", from, rec.Seq, i)
			}
			w.learnRecord(e, rec)
		}
		from = recs[len(recs)-1].Seq + 1
	}
}

func (w *world) learnRecord(e telemetry.Epoch, rec telemetry.Record) {
	w.tb.Helper()
	if w.made[e] == nil {
		w.tb.Fatalf("epoch %s was never made", e)
	}
	text := "-"
	if rec.Reading != nil {
		text = string(rec.Reading.Payload)
	}
	if old, ok := w.made[e][rec.Seq]; ok && old != text {
		w.tb.Fatalf("epoch %s seq %d was %.20q and is %.20q", e, rec.Seq, old, text)
	}
	w.made[e][rec.Seq] = text
	delete(w.sent, text)
	w.last[e] = max(w.last[e], rec.Seq)
	if l := rec.Loss; l != nil {
		w.lost[l.Epoch] = w.lost[l.Epoch].Add(l.Seqs)
		w.told[telemetry.EpochRange{Epoch: e, Seqs: telemetry.Range{First: rec.Seq, Last: rec.Seq}}] = *l
	}
}

// explained returns what loss records explain that are on the device or receipted:
// one that went with its segment explains nothing any more.
func (w *world) explained(there map[telemetry.Epoch]ranges.Set) map[telemetry.Epoch]ranges.Set {
	out := map[telemetry.Epoch]ranges.Set{}
	for by, l := range w.told {
		if there[by.Epoch].Covers(by.Seqs) || w.held[by.Epoch].Covers(by.Seqs) {
			out[l.Epoch] = out[l.Epoch].Add(l.Seqs)
		}
	}
	return out
}

// learn reads everything and returns what is there.
func (w *world) learn() map[telemetry.Epoch]ranges.Set {
	w.tb.Helper()
	there := map[telemetry.Epoch]ranges.Set{}
	for _, o := range w.box.Epochs() {
		w.learnFrom(o.Epoch, 1)
		for from := uint64(1); ; {
			recs, err := w.box.Read(context.Background(), o.Epoch, from, 1<<20, 1<<30)
			if err != nil {
				w.tb.Fatalf("read: %v", err)
			}
			if len(recs) == 0 {
				break
			}
			r := telemetry.Range{First: recs[0].Seq, Last: recs[len(recs)-1].Seq}
			there[o.Epoch] = there[o.Epoch].Add(r)
			from = r.Last + 1
		}
	}
	for _, o := range w.box.Epochs() {
		if o.Durable < w.last[o.Epoch] {
			w.tb.Fatalf("epoch %s: durable is %d, %d was read", o.Epoch, o.Durable, w.last[o.Epoch])
		}
	}
	return there
}

// audit fails unless every number ever made is on the device, held by the cloud or
// given up by a loss record. A reading during which a file is packed or set aside
// may miss what moves: only what stays missing counts.
func (w *world) audit() {
	w.tb.Helper()
	asked := time.Now()
	for deadline := asked.Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		w.settle()
		miss, e, lacks := w.missing()
		if miss == "" {
			return
		}
		if time.Now().After(deadline) {
			w.tb.Fatalf("%s\ntold %+v\nstats %+v", miss, w.told, w.box.Stats())
		}
		if w.flips > 0 && time.Since(asked) > time.Second {
			asked = time.Now()
			w.askAgain(e, lacks)
		}
	}
}

// askAgain asks for what the cloud had once, lacks, and was given no reason for: a
// flipped bit may have destroyed the loss record that explained it, and to the
// device it is receipted. The real cloud does so, too.
func (w *world) askAgain(e telemetry.Epoch, lacks ranges.Set) {
	w.tb.Helper()
	for _, r := range lacks {
		for _, had := range w.had[e].Within(r) {
			if err := w.box.Again(e, had); err != nil {
				w.tb.Logf("again %s %v: %v", e, had, err)
			}
		}
	}
}

// missing returns what one reading of everything does not account for, in words and
// as numbers of an epoch.
func (w *world) missing() (words string, e telemetry.Epoch, lacks ranges.Set) {
	w.tb.Helper()
	there := w.learn()
	for text, e := range w.sent {
		if len(w.lost[e]) == 0 {
			return fmt.Sprintf("epoch %s: %.20q was acknowledged and never seen", e, text), e, nil
		}
	}
	explained := w.explained(there)
	for _, e := range w.epochs {
		w.last[e] = max(w.last[e], w.acked[e])
		known := there[e].Union(w.held[e]).Union(explained[e])
		if miss := known.Missing(telemetry.Range{First: 1, Last: w.last[e]}); len(miss) > 0 {
			return fmt.Sprintf("epoch %s: nothing accounts for %v of %d", e, miss, w.last[e]), e, miss
		}
	}
	return "", telemetry.Epoch{}, nil
}

// settle waits until no damaged file is left that reading found.
func (w *world) settle() {
	w.tb.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		w.learn()
		if w.box.damaged() == 0 {
			return
		}
		if time.Now().After(deadline) {
			w.tb.Fatal("a damaged file is not quarantined")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// receipt has the cloud take some of what is on the device, and say so.
func (w *world) receipt() {
	w.tb.Helper()
	w.issued = w.issued.Add(time.Second)
	r := telemetry.Receipt{Agent: "greenhouse-1", Issued: w.issued}
	there := w.learn()
	for _, o := range w.box.Epochs() {
		if w.rng.IntN(3) == 0 {
			continue
		}
		for range 1 + w.rng.IntN(3) {
			if o.Durable == 0 {
				break
			}
			first := 1 + w.rng.Uint64N(o.Durable)
			if w.rng.IntN(2) == 0 {
				first = 1
			}
			some := telemetry.Range{First: first, Last: min(o.Durable, first+w.rng.Uint64N(o.Durable))}
			w.held[o.Epoch] = w.held[o.Epoch].Union(there[o.Epoch].Within(some)) // what it was sent
		}
		w.had[o.Epoch] = w.had[o.Epoch].Union(w.held[o.Epoch])
		er := telemetry.EpochReceipt{Epoch: o.Epoch, Watermark: w.held[o.Epoch].Watermark()}
		for _, h := range w.held[o.Epoch] {
			if h.First > er.Watermark && len(er.Held) < telemetry.MaxHeld {
				er.Held = append(er.Held, h)
			}
		}
		r.Epochs = append(r.Epochs, er)
	}
	if err := w.box.Trim(r); err != nil {
		w.tb.Fatalf("trim: %v", err)
	}
}

// again has the cloud lose something that it had, and ask for it.
func (w *world) again() {
	w.tb.Helper()
	for e, held := range w.held {
		if len(held) == 0 || w.rng.IntN(2) == 0 {
			continue
		}
		r := held[w.rng.IntN(len(held))]
		r.First += w.rng.Uint64N(r.Len())
		w.held[e] = held.Sub(r)
		// What is left of it must be sent again, or be given up as receipted.
		if err := w.box.Again(e, r); err != nil {
			if w.flips == 0 {
				w.tb.Fatalf("again %s %v: %v", e, r, err)
			}
			w.held[e] = held // a damaged device may have forgotten that it made them
			return
		}
		w.askWhatWasForgotten(e, r)
		_, _ = w.box.Append(context.Background(), reading("after", "again")) // what Again queued is durable before
		return
	}
}

// askWhatWasForgotten asks for what loss records in r explained: with them the
// cloud forgot why it lacks that.
func (w *world) askWhatWasForgotten(e telemetry.Epoch, r telemetry.Range) {
	w.tb.Helper()
	for by, l := range w.told {
		if by.Epoch != e || by.Seqs.First < r.First || by.Seqs.Last > r.Last {
			continue
		}
		for _, hole := range w.held[l.Epoch].Missing(l.Seqs) {
			if err := w.box.Again(l.Epoch, hole); err != nil {
				if w.flips == 0 {
					w.tb.Fatalf("again %s %v: %v", l.Epoch, hole, err)
				}
				w.held[l.Epoch] = w.held[l.Epoch].Add(hole)
			}
		}
	}
}

// restart ends the outbox, cleanly or not, and opens it.
func (w *world) restart() {
	w.tb.Helper()
	if err := w.box.stop(); err != nil {
		w.tb.Fatalf("stop: %v", err)
	}
	w.opts.unclean = w.rng.IntN(2) == 0 // how the next life ends
	w.open()
}

// copyDir copies a folder. The outbox may be at work in it: the caller audits.
func copyDir(tb testing.TB, from, to string) {
	tb.Helper()
	entries, err := os.ReadDir(from)
	if err != nil {
		tb.Fatal(err)
	}
	for _, d := range entries {
		if err := copyFile(filepath.Join(from, d.Name()), filepath.Join(to, d.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			tb.Fatal(err)
		}
	}
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// flip turns a bit of a segment that is not being written.
func (w *world) flip() {
	w.tb.Helper()
	names, _ := filepath.Glob(filepath.Join(w.opts.Dir, "*"+suffixSegment))
	for _, i := range w.rng.Perm(len(names)) {
		_, _, sealed, ok := parseName(filepath.Base(names[i]))
		if ok && !sealed {
			continue
		}
		w.flips++
		flipBit(w.tb, names[i], w.rng)
		return
	}
}

func flipBit(tb testing.TB, path string, rng *rand.Rand) {
	tb.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return // gone meanwhile
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return
	}
	at, b := rng.Int64N(info.Size()), make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		tb.Fatal(err)
	}
	b[0] ^= 1 << rng.IntN(8)
	if _, err := f.WriteAt(b, at); err != nil {
		tb.Fatal(err)
	}
}

// walk does steps at random and audits now and then.
func (w *world) walk(steps int) {
	receipts := w.rng.IntN(5) // some walks fill the outbox
	for range steps {
		switch n := w.rng.IntN(24); {
		case n < 14:
			w.appendSome()
		case n < 14+receipts:
			w.receipt()
		case n < 19:
			w.again()
		case n < 20:
			w.flip()
		case n < 22:
			w.restart()
		default:
			w.audit()
		}
	}
	w.audit()
}

// envInt returns a number from the environment, for the long forms of tests.
func envInt(tb testing.TB, name string, short, normal int) int {
	tb.Helper()
	if s := os.Getenv(name); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			tb.Fatalf("%s=%q: %v", name, s, err)
		}
		return n
	}
	if testing.Short() {
		return short
	}
	return normal
}

// Whatever is done to an outbox, in any order, with restarts in between: every
// number it ever gave is on the disk, receipted or explained, and means one reading.
func TestRandomWalkAgreesWithModel(t *testing.T) {
	walks := envInt(t, "OUTBOX_WALKS", 2, 12)
	seed := seeded(t)
	for i := range walks {
		s := seed + uint64(i)
		for _, full := range []Policy{Refuse, DropOldest} {
			t.Run(fmt.Sprintf("%s/seed=%d", full, s), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(s, 2))
				o := Options{
					SegmentBytes: 256 << 10, MaxBytes: 2 << 20, Full: full, FullGrace: 20 * time.Millisecond,
					KeepBytes: int64(rng.IntN(3)) * 300 << 10, QueueRecords: 1 + rng.IntN(200), packFrom: 3,
				}
				newWorld(t, s, o).walk(80)
			})
		}
	}
}
