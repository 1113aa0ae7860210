package outbox

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Draft is a record that has no seq yet. Exactly one of the pointers is set.
type Draft struct {
	At        telemetry.Instant // when it was received; zero: now
	Reading   *telemetry.Reading
	Oversized *telemetry.Oversized // becomes a loss record
	Anchor    *telemetry.Anchor
}

func (d *Draft) record() (telemetry.Record, error) {
	rec := telemetry.Record{At: d.At}
	n := 0
	if d.Reading != nil {
		rec.Kind, rec.Reading, n = telemetry.KindReading, d.Reading, n+1
		if len(d.Reading.Topic) > telemetry.MaxTopic || len(d.Reading.Payload) > telemetry.MaxPayload || d.Reading.QoS > 2 {
			return rec, fmt.Errorf("%w: topic of %d bytes, payload of %d, QoS %d", ErrDraft, len(d.Reading.Topic), len(d.Reading.Payload), d.Reading.QoS)
		}
	}
	if d.Oversized != nil {
		rec.Kind, n = telemetry.KindLoss, n+1
		rec.Loss = &telemetry.Loss{
			Seqs: telemetry.Range{First: 1}, Reason: telemetry.ReasonOversized, Count: 1,
			Bytes: d.Oversized.Size + uint64(len(d.Oversized.Topic)), First: d.At, Last: d.At, Oversized: d.Oversized,
		}
	}
	if d.Anchor != nil {
		rec.Kind, rec.Anchor, n = telemetry.KindAnchor, d.Anchor, n+1
	}
	if n != 1 {
		return rec, fmt.Errorf("%w: a draft has %d parts, want 1", ErrDraft, n)
	}
	return rec, nil
}

// item is a record on its way to the disk.
type item struct {
	rec  telemetry.Record
	size int
	lost uint64 // readings that it is the first to call lost
	done func(seq uint64, err error)
}

// newItem makes an item of a draft, which was received at if it does not say when.
func newItem(d Draft, at telemetry.Instant, done func(uint64, error)) (item, error) {
	d.At = cmp.Or(d.At, at)
	rec, err := d.record()
	it := item{rec: rec, size: recordSize(&rec), done: done}
	if rec.Loss != nil {
		it.lost = rec.Loss.Count
	}
	return it, err
}

// queue holds what waits for a commit, bounded in records and bytes. What is
// being committed still counts.
type queue struct {
	maxRecords int
	maxBytes   int64
	work       chan struct{} // something was queued

	mu      sync.Mutex
	items   []item
	spare   []item // the room of items that were taken off, to be used again
	bytes   int64
	room    chan struct{} // closed when there is room again, or no more hope of it
	stopped error         // nothing is taken any more
	refuse  bool          // full for too long
	blocked int           // Submits that wait for room
	hurry   bool          // Flush was called
}

func newQueue(records int, bytes int64) *queue {
	return &queue{maxRecords: records, maxBytes: bytes, work: make(chan struct{}, 1), room: make(chan struct{})}
}

// Submit queues a draft, and waits while the queue is full. done is called once,
// by the committer, in the order of the Submits: with the seq after the fsync of
// the commit that holds the record, or with the error for which it will never be
// durable. done must not block; the draft must stay as it is until then. Submit returns ErrFull, ErrClosed, ErrDraft, the
// context's error, or what ended Run; then done is not called.
func (o *Outbox) Submit(ctx context.Context, d Draft, done func(seq uint64, err error)) error {
	it, err := newItem(d, o.opts.Now(), done)
	if err == nil {
		_, err = o.queue.put(ctx, []item{it})
	}
	return err
}

// Append queues drafts in a row and waits until they are durable. It returns the
// seq of the last. When it returns an error, some of them may be durable or may
// become it.
func (o *Outbox) Append(ctx context.Context, drafts ...Draft) (last uint64, err error) {
	w := &waiter{left: len(drafts), all: make(chan struct{})}
	items, done, at := make([]item, len(drafts)), w.done, o.opts.Now()
	for i, d := range drafts {
		if items[i], err = newItem(d, at, done); err != nil {
			return 0, err
		}
	}
	if len(items) == 0 {
		return 0, nil
	}
	if n, err := o.queue.put(ctx, items); err != nil {
		w.cut(len(items) - n)
		return 0, err
	}
	select {
	case <-w.all:
		return w.last, w.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// waiter gathers what becomes of the drafts of one Append.
type waiter struct {
	mu   sync.Mutex
	left int
	last uint64
	err  error
	all  chan struct{} // closed when none is left
}

func (w *waiter) done(seq uint64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = max(w.last, seq)
	if w.err == nil {
		w.err = err
	}
	w.cutLocked(1)
}

func (w *waiter) cut(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cutLocked(n)
}

func (w *waiter) cutLocked(n int) {
	if w.left -= n; w.left == 0 {
		close(w.all)
	}
}

// put queues items, waiting for room as often as need be, and returns how many it
// queued.
func (q *queue) put(ctx context.Context, items []item) (n int, err error) {
	for {
		k, room, err := q.tryPut(items[n:])
		if n += k; room == nil {
			return n, err
		}
		select {
		case <-room:
		case <-ctx.Done():
			err = ctx.Err()
		}
		q.mu.Lock()
		q.blocked--
		q.mu.Unlock()
		if err != nil {
			return n, err
		}
	}
}

// tryPut queues as many items as there is room for, and returns how many, and the
// channel to wait on before trying again if some are left.
func (q *queue) tryPut(items []item) (n int, room <-chan struct{}, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.signal()
	if q.items = slices.Grow(q.items, min(len(items), q.maxRecords)); len(q.items) == 0 && cap(q.items) <= keptItems {
		q.spare = q.items
	}
	for ; n < len(items); n++ {
		it := &items[n]
		switch {
		case q.stopped != nil:
			return n, nil, q.stopped
		case q.refuse:
			return n, nil, ErrFull
		case len(q.items) > 0 && (len(q.items) >= q.maxRecords || q.bytes+int64(it.size) > q.maxBytes):
			q.blocked++
			return n, q.room, nil
		}
		q.items = append(q.items, *it)
		q.bytes += int64(it.size)
	}
	return n, nil, nil
}

func (q *queue) signal() {
	select {
	case q.work <- struct{}{}:
	default:
	}
}

func (q *queue) flush() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) > 0 {
		q.hurry = true
		q.signal()
	}
}

// peek returns the first items, at most records and bytes of them but at least
// one if there is any; they stay queued. urgent says that no more are likely to come.
func (q *queue) peek(records, bytes int) (items []item, urgent bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, size := 0, 0
	for n < len(q.items) && n < records && (n == 0 || size+q.items[n].size <= bytes) {
		size += q.items[n].size
		n++
	}
	return q.items[:n:n], q.hurry || q.blocked > 0 || q.stopped != nil || n < len(q.items)
}

// drop takes the first n off.
func (q *queue) drop(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.items[:n] {
		q.bytes -= int64(q.items[i].size)
	}
	clear(q.items[:n])
	q.items = q.items[n:]
	if len(q.items) == 0 {
		q.items, q.hurry = q.spare, false
	}
	q.freeLocked()
}

// keptItems bounds the room that an empty queue keeps, in drafts.
const keptItems = 2048

func (q *queue) freeLocked() {
	if q.blocked > 0 {
		close(q.room)
		q.room = make(chan struct{})
	}
}

// stop makes every Submit fail with err from now on.
func (q *queue) stop(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped == nil {
		q.stopped = err
	}
	q.freeLocked()
	q.signal()
}

// fail gives err to everything queued.
func (q *queue) fail(err error) {
	q.mu.Lock()
	items := q.items
	q.items, q.spare, q.bytes, q.hurry = nil, nil, 0, false
	q.freeLocked()
	q.mu.Unlock()
	for _, it := range items {
		it.done(0, err)
	}
}

// setRefuse makes every Submit fail with ErrFull at once, or takes that back.
func (q *queue) setRefuse(v bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.refuse = v
	q.freeLocked()
}

// depth returns how many drafts wait for a commit, and their bytes.
func (q *queue) depth() (records int, bytes int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items), q.bytes
}
