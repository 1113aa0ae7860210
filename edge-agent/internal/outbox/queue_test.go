package outbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// itemsOf makes items of some sizes whose done notes what came of them.
func itemsOf(note func(i int, err error), sizes ...int) []item {
	out := make([]item, len(sizes))
	for i, size := range sizes {
		out[i] = item{size: size, rec: telemetry.Record{Seq: uint64(i)}, done: func(_ uint64, err error) { note(i, err) }}
	}
	return out
}

func ignore(int, error) {}

// The queue takes what fits in records and in bytes, and one of any size when it is
// empty: a reading larger than the bound must pass too.
func TestQueueBoundsRecordsAndBytes(t *testing.T) {
	for _, c := range []struct {
		name    string
		records int
		bytes   int64
		sizes   []int
		want    int
	}{
		{"by records", 3, 1000, []int{1, 1, 1, 1}, 3},
		{"by bytes", 10, 100, []int{40, 40, 40}, 2},
		{"exactly full", 10, 80, []int{40, 40}, 2},
		{"one larger than all", 10, 100, []int{500}, 1},
		{"larger than all behind a small one", 10, 100, []int{1, 500}, 1},
		{"one record", 1, 1, []int{1, 1}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := newQueue(c.records, c.bytes)
			n, room, err := q.tryPut(itemsOf(ignore, c.sizes...))
			if n != c.want || err != nil || (room == nil) != (n == len(c.sizes)) {
				t.Fatalf("took %d of %v, room to wait for: %t, %v", n, c.sizes, room != nil, err)
			}
			want := int64(0)
			for _, s := range c.sizes[:n] {
				want += int64(s)
			}
			if k, b := q.depth(); k != n || b != want {
				t.Fatalf("depth is %d records, %d bytes", k, b)
			}
		})
	}
}

// A commit takes the first items up to its bounds, at least one, and they stay
// queued until they are dropped.
func TestPeekTakesFirstsAndLeavesThem(t *testing.T) {
	q := newQueue(100, 1<<20)
	if items, urgent := q.peek(10, 100); len(items) != 0 || urgent {
		t.Fatalf("an empty queue gives %d, urgent %t", len(items), urgent)
	}
	if n, _, _ := q.tryPut(itemsOf(ignore, 50, 50, 50, 500)); n != 4 {
		t.Fatal(n)
	}
	for _, c := range []struct{ records, bytes, want int }{{10, 100, 2}, {1, 1000, 1}, {10, 10, 1}, {10, 1000, 4}, {10, 649, 3}} {
		items, urgent := q.peek(c.records, c.bytes)
		if len(items) != c.want || urgent != (c.want < 4) {
			t.Errorf("peek(%d, %d) gives %d, urgent %t", c.records, c.bytes, len(items), urgent)
		}
	}
	q.drop(3)
	if items, _ := q.peek(10, 10); len(items) != 1 || items[0].size != 500 {
		t.Fatalf("a large one alone: %+v", items)
	}
	if n, b := q.depth(); n != 1 || b != 500 {
		t.Fatalf("depth %d, %d", n, b)
	}
}

// Items come out in the order they went in, whatever is put and taken in between,
// and the room that an empty queue keeps never holds an old one.
func TestQueueKeepsOrderWhileItsRoomIsReused(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	q := newQueue(5000, 1<<30)
	in, out := uint64(0), uint64(0)
	for range 600 {
		batch := make([]item, 1+rng.IntN(1+rng.IntN(900)))
		for i := range batch {
			batch[i] = item{size: 1, rec: telemetry.Record{Seq: in + uint64(i)}}
		}
		n, _, err := q.tryPut(batch)
		if err != nil {
			t.Fatal(err)
		}
		in += uint64(n)
		for rng.IntN(3) > 0 {
			items, _ := q.peek(1+rng.IntN(2000), 1<<20)
			if rng.IntN(4) == 0 { // somebody comes between peek and drop
				k, _, _ := q.tryPut([]item{{size: 1, rec: telemetry.Record{Seq: in}}})
				in += uint64(k)
			}
			for _, it := range items {
				if it.rec.Seq != out {
					t.Fatalf("%d came out at place %d", it.rec.Seq, out)
				}
				out++
			}
			q.drop(len(items))
		}
		if n, b := q.depth(); uint64(n) != in-out || int64(n) != b {
			t.Fatalf("depth %d of %d bytes, want %d", n, b, in-out)
		}
		if cap(q.spare) > keptItems {
			t.Fatalf("an empty queue keeps room for %d", cap(q.spare))
		}
	}
}

// Who waits for room gets it in time, and an error when there will be none.
func TestPutWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(2, 100)
		if n, err := q.put(t.Context(), itemsOf(ignore, 1, 1)); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		type result struct {
			n   int
			err error
		}
		results := make(chan result, 1)
		put := func(ctx context.Context, sizes ...int) {
			go func() {
				n, err := q.put(ctx, itemsOf(ignore, sizes...))
				results <- result{n, err}
			}()
			synctest.Wait()
		}
		put(t.Context(), 1, 1, 1)
		for range 2 { // it takes two rounds of room for three
			select {
			case r := <-results:
				t.Fatalf("there was no room, and yet %+v", r)
			default:
			}
			items, urgent := q.peek(10, 100)
			if !urgent {
				t.Fatal("somebody waits: more is not likely to come")
			}
			q.drop(len(items))
			synctest.Wait()
		}
		if r := <-results; r.n != 3 || r.err != nil {
			t.Fatalf("%+v", r)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		put(ctx, 1, 1)
		if r := <-results; r.n != 1 || !errors.Is(r.err, context.DeadlineExceeded) {
			t.Fatalf("after a deadline: %+v", r)
		}
		put(t.Context(), 1)
		q.setRefuse(true)
		if r := <-results; r.n != 0 || !errors.Is(r.err, ErrFull) {
			t.Fatalf("while it refuses: %+v", r)
		}
		q.setRefuse(false)
		put(t.Context(), 1)
		q.stop(ErrClosed)
		if r := <-results; r.n != 0 || !errors.Is(r.err, ErrClosed) {
			t.Fatalf("when it stopped: %+v", r)
		}
		if q.blocked != 0 {
			t.Fatalf("%d still wait", q.blocked)
		}
	})
}

// Everything queued fails once, with the reason given, and nothing twice.
func TestFailTellsEverybodyOnce(t *testing.T) {
	q := newQueue(10, 100)
	told := map[int]error{}
	note := func(i int, err error) {
		if _, ok := told[i]; ok {
			t.Errorf("item %d was told twice", i)
		}
		told[i] = err
	}
	if _, err := q.put(t.Context(), itemsOf(note, 1, 2, 3)); err != nil {
		t.Fatal(err)
	}
	q.fail(ErrFull)
	q.fail(ErrClosed)
	if len(told) != 3 || !errors.Is(told[0], ErrFull) || !errors.Is(told[2], ErrFull) {
		t.Fatalf("%v", told)
	}
	if n, b := q.depth(); n != 0 || b != 0 {
		t.Fatalf("%d records of %d bytes are left", n, b)
	}
	if _, err := q.put(t.Context(), itemsOf(ignore, 1)); err != nil {
		t.Fatalf("it takes nothing after: %v", err)
	}
}

// Flush hurries what is queued, and only that.
func TestFlushHurriesWhatIsQueued(t *testing.T) {
	q := newQueue(10, 100)
	q.flush()
	_, _, _ = q.tryPut(itemsOf(ignore, 1))
	if _, urgent := q.peek(10, 100); urgent {
		t.Fatal("a Flush of nothing hurries what comes after")
	}
	q.flush()
	if _, urgent := q.peek(10, 100); !urgent {
		t.Fatal("Flush does not hurry")
	}
	q.drop(1)
	_, _, _ = q.tryPut(itemsOf(ignore, 1))
	if _, urgent := q.peek(10, 100); urgent {
		t.Fatal("the next one is hurried too")
	}
}

// One Append is durable as a whole, in a row, and its number is that of its last.
func TestAppendGivesNumbersInARow(t *testing.T) {
	x := open(t, Options{Dir: memoryDir(t), QueueRecords: 7})
	var mu sync.Mutex
	got := map[uint64]string{}
	var wg sync.WaitGroup
	for who := range 4 {
		wg.Go(func() {
			for i := range 20 {
				drafts := make([]Draft, 1+(who+i)%30) // larger than the queue too
				for j := range drafts {
					drafts[j] = reading("t", fmt.Sprintf("%d/%d/%d", who, i, j))
				}
				last, err := x.Append(context.Background(), drafts...)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				got[last] = fmt.Sprintf("%d/%d/%d", who, i, len(drafts)-1)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	next := map[string]int{}
	for _, rec := range x.all(x.Stats().Epoch) {
		if rec.Reading == nil {
			continue
		}
		text := string(rec.Reading.Payload)
		if want, ok := got[rec.Seq]; ok && want != text {
			t.Errorf("seq %d is %s, its Append was told it is %s", rec.Seq, text, want)
		}
		var who, i, j int
		if _, err := fmt.Sscanf(text, "%d/%d/%d", &who, &i, &j); err != nil {
			t.Fatal(err)
		}
		key := fmt.Sprintf("%d/%d", who, i)
		if next[key] != j {
			t.Errorf("%s came where %d was due", text, next[key])
		}
		next[key]++
	}
	if len(next) != 80 {
		t.Fatalf("%d Appends of 80", len(next))
	}
}

// An Append of nothing is done at once; one with a draft that no record can be
// stores none of its drafts.
func TestAppendOfNothingOrWrong(t *testing.T) {
	x := open(t, Options{Dir: memoryDir(t)})
	if last, err := x.Append(t.Context()); last != 0 || err != nil {
		t.Fatal(last, err)
	}
	if _, err := x.Append(t.Context(), reading("t", "good"), Draft{}); !errors.Is(err, ErrDraft) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := x.Append(ctx, reading("t", "late")); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	x.append(reading("t", "after"))
	for _, rec := range x.all(x.Stats().Epoch) {
		if rec.Reading != nil && string(rec.Reading.Payload) == "good" {
			t.Fatal("half an Append was stored")
		}
	}
}

// What was submitted when the outbox ended is told so, once; after that nothing is taken.
func TestEveryDraftHearsWhatBecameOfIt(t *testing.T) {
	box := still(t, Options{Dir: memoryDir(t)})
	var mu sync.Mutex
	var told []error
	for range 5 {
		if err := box.Submit(t.Context(), reading("t", "x"), func(_ uint64, err error) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, err)
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := box.Close(); err != nil { // Run never ran
		t.Fatal(err)
	}
	if len(told) != 5 || !errors.Is(told[0], ErrClosed) || !errors.Is(told[4], ErrClosed) {
		t.Fatalf("%v", told)
	}
	if err := box.Submit(t.Context(), reading("t", "x"), nil); !errors.Is(err, ErrClosed) {
		t.Fatalf("after Close: %v", err)
	}
	if err := box.Explain(t.Context(), telemetry.Loss{Seqs: telemetry.Range{First: 1, Last: 1}}); !errors.Is(err, ErrClosed) {
		t.Fatalf("Explain after Close: %v", err)
	}
}
