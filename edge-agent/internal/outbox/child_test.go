package outbox

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

// The cruel tests run the outbox in a child process: one that can be killed, and
// whose disk can fail without this process hanging on a page of it.

// TestMain runs the tests, or a child's part in one of them.
func TestMain(m *testing.M) {
	if s := os.Getenv("OUTBOX_CHILD"); s != "" {
		os.Exit(childMain(s))
	}
	os.Exit(m.Run())
}

// errand is what a child is to do.
type errand struct {
	Do       string // produce, dump
	Dir      string
	Seed     uint64
	Segment  int64
	Max      int64
	PackFrom int
	Full     Policy
	Grace    time.Duration
	NoSync   bool
	Watch    bool // tell what a reader sees
	Unfenced bool // and let it see what bbolt shows
	Confirm  bool // receipt some of what there is now and then
	Limit    int  // records of each producer; 0: for ever
	Losing   bool // a loss record accounts for what is missing
}

func (e errand) options() Options {
	return Options{
		Dir: e.Dir, Agent: "greenhouse-1", SegmentBytes: e.Segment, MaxBytes: e.Max, Full: e.Full, FullGrace: e.Grace,
		Logger: slog.New(slog.DiscardHandler), noSync: e.NoSync, packFrom: e.PackFrom,
	}
}

func childMain(s string) int {
	var e errand
	if err := json.Unmarshal([]byte(s), &e); err != nil {
		panic(err)
	}
	t := &teller{w: os.Stdout}
	box, err := Open(e.options())
	if err != nil {
		t.tell("E", telemetry.Epoch{}, 0, 0, "open: "+err.Error())
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- box.Run(ctx) }()
	go func() { // the parent closes our input to have us end cleanly
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	if e.Do == "dump" {
		err = dump(ctx, box, t)
	} else {
		e.produceAll(ctx, box, t)
	}
	cancel()
	if rerr := <-ended; err == nil {
		err = rerr
	}
	if cerr := box.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		t.tell("E", telemetry.Epoch{}, 0, 0, err.Error())
		return 1
	}
	t.tell("D", telemetry.Epoch{}, 0, 0, "done")
	return 0
}

// teller writes lines to the parent: kind, epoch, two numbers, text.
type teller struct {
	mu sync.Mutex
	w  io.Writer
}

func (t *teller) tell(kind string, e telemetry.Epoch, a, b uint64, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, _ = fmt.Fprintf(t.w, "%s\t%s\t%d\t%d\t%s\n", kind, e, a, b, strings.ReplaceAll(text, "\n", " "))
}

// produceAll has three producers submit, and tells of each acknowledgement (A) and
// failure (F), and of what is about to be receipted (H).
func (e errand) produceAll(ctx context.Context, box *Outbox, t *teller) {
	var workers sync.WaitGroup
	for who := range 3 {
		workers.Go(func() { e.produce(ctx, box, t, who) })
	}
	wctx, end := context.WithCancel(context.Background())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if e.Watch {
			watch(wctx, box, t, e.Unfenced)
		}
	}()
	pctx, stop := context.WithCancel(ctx)
	confirmed := make(chan struct{})
	go func() {
		defer close(confirmed)
		if e.Confirm {
			confirm(pctx, box, t, e.Seed)
		}
	}()
	workers.Wait()
	stop()
	<-confirmed
	if e.Watch {
		time.Sleep(100 * time.Millisecond) // what a failed fsync left is there to be seen
	}
	end()
	<-watched
}

func (e errand) produce(ctx context.Context, box *Outbox, t *teller, who int) {
	id := box.Stats().Epoch
	var left sync.WaitGroup
	for i := 0; ctx.Err() == nil && (e.Limit == 0 || i < e.Limit); i++ {
		text := fmt.Sprintf("%s/%d/%d/%s", id, who, i, strings.Repeat("z", i*7%700))
		left.Add(1)
		err := box.Submit(ctx, reading("t/"+strconv.Itoa(who), text), func(seq uint64, err error) {
			defer left.Done()
			if err != nil {
				t.tell("F", id, 0, 0, err.Error())
				return
			}
			t.tell("A", id, seq, 0, text)
		})
		if err != nil {
			left.Done()
			t.tell("F", id, 0, 0, err.Error())
			break
		}
	}
	left.Wait()
}

func confirm(ctx context.Context, box *Outbox, t *teller, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 4))
	for ctx.Err() == nil {
		time.Sleep(time.Duration(rng.IntN(int(8 * time.Millisecond))))
		r := telemetry.Receipt{Agent: "greenhouse-1"}
		for _, o := range box.Epochs() {
			if o.Durable > 0 && rng.IntN(3) == 0 {
				er := telemetry.EpochReceipt{Epoch: o.Epoch, Watermark: rng.Uint64N(o.Durable + 1)}
				r.Epochs = append(r.Epochs, er)
				t.tell("H", er.Epoch, er.Watermark, 0, "")
			}
		}
		if err := box.Trim(r); err != nil {
			t.tell("E", telemetry.Epoch{}, 0, 0, "trim: "+err.Error())
			return
		}
	}
}

// dump tells of every record (R), of every loss (L) and of every open epoch (O).
func dump(ctx context.Context, box *Outbox, t *teller) error {
	// Quarantines and their losses are done when this is durable.
	if _, err := box.Append(ctx, reading("dump", "dump")); err != nil {
		return err
	}
	for _, o := range box.Epochs() {
		t.tell("O", o.Epoch, o.Lowest, o.Durable, "")
		for from := uint64(1); ; {
			recs, err := box.Read(ctx, o.Epoch, from, 1000, 1<<20)
			if err != nil {
				return err
			}
			if len(recs) == 0 {
				break
			}
			for _, rec := range recs {
				text := "-"
				if rec.Reading != nil {
					text = string(rec.Reading.Payload)
				}
				t.tell("R", o.Epoch, rec.Seq, 0, text)
				if l := rec.Loss; l != nil {
					t.tell("L", l.Epoch, l.Seqs.First, l.Seqs.Last, "")
				}
			}
			from = recs[len(recs)-1].Seq + 1
		}
	}
	return nil
}

// child is a running child process.
type child struct {
	cmd   *exec.Cmd
	in    io.Closer
	lines chan []string
}

func startChild(tb testing.TB, e errand) *child {
	tb.Helper()
	job, err := json.Marshal(e)
	if err != nil {
		tb.Fatal(err)
	}
	command := []string{os.Args[0]}
	if emulator := os.Getenv("HOLDFAST_TEST_EMULATOR"); emulator != "" {
		command = []string{emulator, os.Args[0]} // the kernel does not run another processor's programs by itself
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "OUTBOX_CHILD="+string(job))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	c := &child{cmd: cmd, in: in, lines: make(chan []string, 1024)}
	go func() {
		defer close(c.lines)
		r := bufio.NewReaderSize(out, 1<<16)
		for {
			s, err := r.ReadString('\n')
			if err != nil {
				return // a line cut off was never told
			}
			c.lines <- strings.SplitN(strings.TrimSuffix(s, "\n"), "\t", 5)
		}
	}()
	return c
}

// end waits for the child after its lines were read.
func (c *child) end() { _ = c.cmd.Wait() }

// device is what a parent knows of an outbox that children work on.
type device struct {
	tb    testing.TB
	rng   *rand.Rand
	job   errand
	acked map[telemetry.Epoch]map[uint64]string
	held  map[telemetry.Epoch]ranges.Set      // receipted
	told  map[telemetry.Epoch]ranges.Set      // given up by a loss record that was read, at some time
	seen  map[telemetry.Epoch]map[uint64]bool // what the last check read
	text  map[telemetry.Epoch]map[uint64]string
	next  map[string]uint64 // by producer: the seq of its last acknowledgement
	total int
	fails []string
}

func newDevice(tb testing.TB, seed uint64, job errand) *device {
	return &device{
		tb: tb, rng: rand.New(rand.NewPCG(seed, 3)), job: job,
		acked: map[telemetry.Epoch]map[uint64]string{}, held: map[telemetry.Epoch]ranges.Set{}, told: map[telemetry.Epoch]ranges.Set{},
		text: map[telemetry.Epoch]map[uint64]string{}, next: map[string]uint64{},
	}
}

// note takes one line of a producing child in and reports whether it acknowledges.
func (d *device) note(l []string) (ack bool) {
	d.tb.Helper()
	e, a := d.parse(l)
	switch l[0] {
	case "A":
		if d.acked[e] == nil {
			d.acked[e] = map[uint64]string{}
		}
		if old, ok := d.acked[e][a]; ok {
			d.tb.Fatalf("epoch %s seq %d was acknowledged for %.40q and for %.40q", e, a, old, l[4])
		}
		d.acked[e][a] = l[4]
		who := strings.Join(strings.SplitN(l[4], "/", 3)[:2], "/")
		if a <= d.next[who] {
			d.tb.Fatalf("producer %s: seq %d after %d", who, a, d.next[who])
		}
		d.next[who] = a
		d.total++
		return true
	case "H":
		d.held[e] = d.held[e].Add(telemetry.Range{First: 1, Last: a})
	case "E", "F":
		d.fails = append(d.fails, l[4])
	}
	return false
}

func (d *device) parse(l []string) (telemetry.Epoch, uint64) {
	d.tb.Helper()
	if len(l) != 5 {
		d.tb.Fatalf("a child says %q", l)
	}
	e, err := telemetry.ParseEpoch(l[1])
	if err != nil {
		d.tb.Fatalf("a child says %q: %v", l, err)
	}
	a, _ := strconv.ParseUint(l[2], 10, 64)
	return e, a
}

// check has a child read everything back. It returns how many acknowledged records
// are neither there nor receipted, nor, where the errand says that some may be
// lost, given up by a loss record; and fails for anything wrong or doubled.
func (d *device) check() (missing int) {
	d.tb.Helper()
	job := d.job
	job.Do, job.Confirm = "dump", false
	c := startChild(d.tb, job)
	there, texts := map[telemetry.Epoch]map[uint64]bool{}, map[string]uint64{}
	done := false
	for l := range c.lines {
		e, a := d.parse(l)
		switch l[0] {
		case "R":
			if there[e] == nil {
				there[e] = map[uint64]bool{}
			}
			there[e][a] = true
			d.learn(e, a, l[4])
			if old, ok := texts[l[4]]; ok && strings.Contains(l[4], "/") {
				d.tb.Fatalf("%.40q is there twice: seq %d and %d of %s", l[4], old, a, e)
			}
			texts[l[4]] = a
		case "L":
			b, _ := strconv.ParseUint(l[3], 10, 64)
			d.told[e] = d.told[e].Add(telemetry.Range{First: a, Last: b})
		case "E":
			d.tb.Fatalf("reading back: %s", l[4])
		case "D":
			done = true
		}
	}
	c.end()
	if !done {
		d.tb.Fatal("the child that reads back died")
	}
	d.seen = there
	for e, acked := range d.acked {
		for seq, text := range acked {
			switch {
			case there[e][seq] && d.text[e][seq] != text:
				d.tb.Fatalf("epoch %s seq %d: acknowledged %.40q, read %.40q", e, seq, text, d.text[e][seq])
			case there[e][seq]:
			case d.job.Losing && d.told[e].Covers(telemetry.Range{First: seq, Last: seq}):
			case d.held[e].Covers(telemetry.Range{First: seq, Last: seq}):
				delete(acked, seq) // receipted, and may be gone
			default:
				missing++
				if missing == 1 {
					d.tb.Logf("epoch %s seq %d is missing; lost %v", e, seq, d.told[e])
				}
			}
		}
	}
	return missing
}

// learn holds what a number means against what it meant before.
func (d *device) learn(e telemetry.Epoch, seq uint64, text string) {
	d.tb.Helper()
	if d.text[e] == nil {
		d.text[e] = map[uint64]string{}
	}
	if old, ok := d.text[e][seq]; ok && old != text {
		d.tb.Fatalf("epoch %s seq %d meant %.40q and means %.40q", e, seq, old, text)
	}
	d.text[e][seq] = text
}

func seeded(tb testing.TB) uint64 {
	tb.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("OUTBOX_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	tb.Logf("seed %d", seed)
	return seed
}

// killed lets a child work, kills it a moment after so many records are
// acknowledged, and returns how many were in the end.
func (d *device) killed(t *testing.T, enough int, moment time.Duration) (acks int) {
	t.Helper()
	d.job.Seed = d.rng.Uint64()
	c := startChild(t, d.job)
	for l := range c.lines {
		if d.note(l) {
			acks++
		}
		if acks == enough {
			time.Sleep(moment)
			_ = c.cmd.Process.Kill()
		}
	}
	c.end()
	return acks
}

// A process killed at any moment, over and over, loses nothing that it
// acknowledged, doubles nothing and keeps the order.
func TestKillLosesNothingAcknowledged(t *testing.T) {
	lives := envInt(t, "OUTBOX_KILLS", 10, 200)
	seed := seeded(t)
	d := newDevice(t, seed, errand{Do: "produce", Dir: t.TempDir(), Segment: 256 << 10, Max: 1 << 30, PackFrom: 8, Confirm: true})
	for life := range lives {
		acks := d.killed(t, 100+d.rng.IntN(300), time.Duration(d.rng.IntN(int(2*time.Millisecond))))
		if len(d.fails) > 0 || acks < 100 {
			t.Fatalf("life %d: %d acknowledged, failures %q", life, acks, d.fails)
		}
		if life%10 == 9 || life == lives-1 {
			if missing := d.check(); missing > 0 {
				t.Fatalf("life %d: %d acknowledged records are missing", life, missing)
			}
		}
	}
	t.Logf("%d lives, %d records acknowledged, none missing or doubled", lives, d.total)
}

// A process killed while it drops and packs leaves nothing unaccounted for. Nothing is
// receipted: so every loss record must still be told.
func TestKillWhileDroppingExplainsEverything(t *testing.T) {
	lives := envInt(t, "OUTBOX_KILLS", 5, 40)
	d := newDevice(t, seeded(t), errand{
		Do: "produce", Dir: t.TempDir(), Segment: minSegment, Max: 5 * minSegment, Full: DropOldest, PackFrom: 3, Losing: true,
	})
	for life := range lives {
		d.killed(t, 300+d.rng.IntN(900), 0)
		if len(d.fails) > 0 {
			t.Fatalf("life %d: %q", life, d.fails)
		}
		if missing := d.check(); missing > 0 {
			t.Fatalf("life %d: nothing accounts for %d acknowledged records", life, missing)
		}
	}
	if len(d.told) == 0 && lives >= 20 {
		t.Fatal("nothing was ever dropped")
	}
}

// watch tells of the highest seq that a reader sees (V), again and again: through
// Read, or, unfenced, as bbolt shows it.
func watch(ctx context.Context, box *Outbox, t *teller, unfenced bool) {
	e := box.Stats().Epoch
	var last uint64
	for ctx.Err() == nil {
		seq := last
		if unfenced {
			seq = bboltLast(box)
		} else if recs, err := box.Read(ctx, e, last+1, 1<<20, 1<<30); err == nil && len(recs) > 0 {
			seq = recs[len(recs)-1].Seq
		}
		if seq > last {
			last = seq
			t.tell("V", e, last, 0, "")
		}
	}
}

// bboltLast returns the last seq that bbolt shows to a reader.
func bboltLast(box *Outbox) (last uint64) {
	box.mu.Lock()
	var f *segment
	if n := len(box.files); n > 0 {
		f = box.files[n-1]
	}
	box.mu.Unlock()
	if f == nil {
		return 0
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.live == nil {
		return 0
	}
	_ = f.live.view(func(r *reader) error {
		heads, err := r.heads()
		if err == nil {
			last = heads[0].Seqs.Last
		}
		return err
	})
	return last
}
