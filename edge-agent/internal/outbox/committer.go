package outbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/outbox/boltpage"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

const (
	batchRecords = 4096    // records a commit at most
	batchBytes   = 1 << 20 // bytes a commit at most: a few milliseconds of writing on a card
)

// errNoRoom says that there is no room for what was to be committed. Nothing changed.
var errNoRoom = errors.New("no room")

// fatal marks an error after which nothing may be acknowledged any more.
func fatal(err error) error { return fmt.Errorf("outbox must stop: %w", err) }

// Run commits what is submitted and removes what may go. It returns nil when ctx
// has ended and what was queued is durable, and an error after a write to the disk
// failed for any reason but want of room: pages that a failed fsync left behind
// count as clean to the kernel, so trying again could acknowledge what is not on
// the disk. Open the folder anew then. Run may be called once.
func (o *Outbox) Run(ctx context.Context) error {
	o.mu.Lock()
	if o.began {
		o.mu.Unlock()
		return errors.New("outbox: Run was called before")
	}
	o.began = true
	o.mu.Unlock()
	defer close(o.running)
	err := o.loop(ctx)
	if err != nil {
		err = fmt.Errorf("outbox: %w", err)
		o.queue.stop(err)
		o.failInside(err)
		o.queue.fail(err)
		return err
	}
	o.failInside(ErrClosed)
	o.queue.fail(ErrClosed)
	return o.closeEpoch()
}

// loop works until ctx has ended and the queue is empty or cannot be emptied.
func (o *Outbox) loop(ctx context.Context) error {
	for {
		ending := ctx.Err() != nil
		if ending {
			o.queue.stop(ErrClosed)
		}
		idle, err := o.step(ending)
		if err != nil {
			return err
		}
		if idle == 0 {
			continue
		}
		if ending {
			return nil
		}
		o.pause(ctx, idle)
	}
}

// pause waits for work, at most for idle.
func (o *Outbox) pause(ctx context.Context, idle time.Duration) {
	t := time.NewTimer(idle)
	defer t.Stop()
	select {
	case <-o.queue.work:
	case <-o.kick:
	case <-t.C:
	case <-ctx.Done():
	}
}

// maxIdle bounds how long the committer sleeps: ages and room are looked at again then.
const maxIdle = time.Minute

// step does what there is to do and returns how long it may wait for more, 0
// when there is more at once.
func (o *Outbox) step(ending bool) (idle time.Duration, err error) {
	if err := o.chores(); err != nil {
		return 0, err
	}
	if err := o.commitInside(); err != nil {
		return 0, err
	}
	items, urgent := o.queue.peek(batchRecords, min(batchBytes, int(o.opts.SegmentBytes/4)))
	if len(items) == 0 {
		return o.idle(ending)
	}
	if o.opts.Profile == Wear && !urgent && !ending {
		if left := o.opts.Interval - time.Since(o.last); left > 0 {
			return left, nil
		}
	}
	err = o.commit(items, false)
	switch {
	case errors.Is(err, errNoRoom):
		return o.noteFull(), nil
	case err != nil:
		return 0, err
	}
	o.noteRoom()
	o.queue.drop(len(items))
	return 0, nil
}

// idle does what can wait until nothing is queued.
func (o *Outbox) idle(ending bool) (time.Duration, error) {
	if ending {
		return maxIdle, nil
	}
	if wait, err := o.retryFull(); wait > 0 || err != nil {
		return wait, err
	}
	more, err := o.packSome()
	if more || err != nil {
		return 0, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.changes.asked) > 0 || o.condemned {
		return retryRoom, nil // they wait for room
	}
	return maxIdle, nil
}

// commitInside commits the outbox's own records, and what the cloud asked for
// again. When there is no room, Explain fails, and the cloud's request waits.
func (o *Outbox) commitInside() error {
	o.mu.Lock()
	explain := o.inside
	items := append(o.answersLocked(), explain...)
	asked := maps.Clone(o.changes.asked)
	o.inside = nil
	clear(o.changes.asked)
	o.mu.Unlock()
	if len(items) == 0 && len(asked) == 0 {
		return nil
	}
	left, err := o.commitOwn(items)
	if err == nil {
		return nil
	}
	full := errors.Is(err, errNoRoom)
	why := err
	if full {
		why, err = ErrFull, nil
	}
	for _, it := range left {
		it.done(0, why)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	maps.Copy(o.changes.asked, asked)
	return err
}

// commitOwn commits the outbox's own records, as many at a time as the smallest
// segment has room for, and at least once also if there are none. They may use the
// room that readings may not. With an error it returns those that are not durable.
func (o *Outbox) commitOwn(items []item) (left []item, err error) {
	for {
		n := min(len(items), 1)
		for need := estimate(items[:n]); n < len(items); n++ {
			if need += estimate(items[n:n+1]) - commitPages; need > minSegment {
				break
			}
		}
		if err := o.commit(items[:n], true); err != nil {
			return items, err
		}
		if items = items[n:]; len(items) == 0 {
			return nil, nil
		}
	}
}

func (o *Outbox) failInside(err error) {
	o.mu.Lock()
	items := o.inside
	o.inside = nil
	o.mu.Unlock()
	for _, it := range items {
		it.done(0, err)
	}
}

// commit makes items durable and calls what waits for them. own says that they
// are the outbox's own. A segment that proves damaged under it is left behind, and
// the next one taken; if that fails as well, it is not the card.
func (o *Outbox) commit(items []item, own bool) error {
	err := o.tryCommit(items, own)
	if errors.Is(err, errPanic) {
		err = o.tryCommit(items, own)
	}
	if errors.Is(err, errPanic) {
		return fatal(err)
	}
	return err
}

func (o *Outbox) tryCommit(items []item, own bool) error {
	if err := o.makeFit(estimate(items), own); err != nil {
		return err
	}
	o.recs = o.recs[:0]
	first := o.live.runs[0].seqs.Last + 1
	for i := range items {
		rec := items[i].rec // a copy: what is queued may be moved meanwhile
		rec.Seq = first + uint64(i)
		o.recs = append(o.recs, rec)
	}
	err := o.write(o.recs)
	clear(o.recs)
	if err != nil {
		return err
	}
	o.countLost(items)
	for i := range items {
		items[i].done(first+uint64(i), nil)
	}
	return nil
}

// countLost counts readings given up: not those of loss records that only tell
// once more what another told.
func (o *Outbox) countLost(items []item) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range items {
		if it := &items[i]; it.lost > 0 {
			o.stat.lost[it.rec.Loss.Reason] += it.lost
		}
	}
}

// write commits records, and what is new of receipts, to the live segment, and
// makes them visible. It returns errNoRoom when the disk was full after all, and
// errPanic when a page that bbolt needs is damaged or cannot be read: the segment
// ends at what was durable before and is not written any more, so that no page of
// it can hold another record under a number that is used again.
func (o *Outbox) write(recs []telemetry.Record) error {
	l := o.live.live
	o.watchClock(recs)
	h := l.head
	o.stamp(&h)
	undo := o.explainAll(recs)
	states := o.takeStates()
	start := time.Now()
	used, err := l.commit([]part{{&h, recs}}, states)
	switch {
	case noSpace(err):
		o.log.Warn("outbox: disk is full", "error", err)
		undo()
		o.markStates(states)
		return errors.Join(errNoRoom, o.seal())
	case errors.Is(err, errPanic):
		undo()
		o.markStates(states)
		o.condemn(o.live, err)
		if serr := o.seal(); serr != nil {
			return serr
		}
		return err
	case err != nil:
		return fatal(err)
	}
	l.head, o.last = h, time.Now()
	o.metrics.commit(len(recs), o.last.Sub(start))
	o.publish(recs, used)
	return nil
}

// publish moves the fence: recs are durable.
func (o *Outbox) publish(recs []telemetry.Record, used int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.live.live.used = used
	r := o.live.runs[0]
	if n := len(recs); n > 0 {
		r.seqs.Last = recs[n-1].Seq
	}
	o.stat.count(recs)
	o.current.last = max(o.current.last, r.seqs.Last)
	o.wakeLocked()
}

// explainAll notes what the losses among recs explain, before they are committed:
// so the same transaction says it a second time, where a restart looks. Nothing is
// removed in between. undo takes it back.
func (o *Outbox) explainAll(recs []telemetry.Record) (undo func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	before := map[*epoch][]explanation{}
	for i := range recs {
		l := recs[i].Loss
		if l == nil || l.Seqs.Len() == 0 {
			continue
		}
		e := o.epochLocked(l.Epoch)
		if _, ok := before[e]; !ok {
			before[e] = slices.Clone(e.explained)
		}
		e.explain(explanation{l.Seqs, l.Reason, o.current.id, recs[i].Seq})
	}
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		for e, x := range before {
			e.explained = x
		}
	}
}

// watchClock notes what anchors say about the clock.
func (o *Outbox) watchClock(recs []telemetry.Record) {
	for i := range recs {
		if a := recs[i].Anchor; a != nil {
			o.synced = a.Synchronised
		}
	}
}

// stamp writes into a head how long the device has run and, if the clock is
// right, what time it is.
func (o *Outbox) stamp(h *head) {
	at := o.opts.Now()
	h.Ran, h.Up, h.Boot, h.Synced = o.ranBase+at.Boot, at.Boot, o.opts.Boot, 0
	if o.synced {
		h.Synced = at.Wall
	}
}

// takeStates returns the state of every epoch that changed since the segment in
// writing was told.
func (o *Outbox) takeStates() []state {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []state
	for e := range o.changes.dirty {
		out = append(out, state{e.id, e.encodeState()})
	}
	clear(o.changes.dirty)
	return out
}

func (o *Outbox) markStates(states []state) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range states {
		if e := o.epochs[s.epoch]; e != nil {
			o.changes.dirty[e] = true
		}
	}
}

// commitPages is what a commit adds to a file beyond its records and the leaf that
// it writes anew, in bytes: the pages above that, and those of other buckets.
const commitPages = 48 << 10

// estimate returns at most how many bytes a commit adds to a file, the leaf that
// it writes anew apart.
func estimate(items []item) int64 {
	need := int64(commitPages)
	for i := range items {
		if size := int64(items[i].size); size > smallBlock {
			need += size + 32 + boltpage.PageSize/2 // a block of its own; of two, less than a page is left unused
		} else {
			need += size + size/3
		}
	}
	return need
}

// makeFit makes sure that the live segment has room for need bytes more,
// and begins a new one if need be. It returns errNoRoom when there is none. A
// single record that no segment has room for gets one to itself.
func (o *Outbox) makeFit(need int64, own bool) error {
	if o.live == nil {
		if err := o.roll(true); err != nil {
			return err
		}
	}
	if o.fits(need, own) {
		return nil
	}
	if err := o.roll(own); err != nil {
		return err
	}
	if o.fits(need, own) || o.live.live.limit >= o.opts.SegmentBytes {
		return nil
	}
	return errNoRoom
}

func (o *Outbox) fits(need int64, own bool) bool {
	l := o.live.live
	room := l.limit - l.used - l.rewrites()
	if !own && o.spare == 0 {
		// The last segment there is room for keeps some for losses and receipts.
		room -= ownRoom(l.limit)
	}
	return need <= room
}

func ownRoom(limit int64) int64 { return max(limit/16, 48<<10) }

// seal ends the live segment: its last seq goes into its name, and the bytes set
// aside and not used go back.
func (o *Outbox) seal() error {
	f := o.live
	if f == nil {
		return nil
	}
	f.mu.Lock()
	l := f.live
	err := l.close()
	o.mu.Lock()
	f.live = nil
	o.changes.look[o.current] = true
	o.mu.Unlock()
	f.mu.Unlock()
	o.live = nil
	if err != nil {
		return fatal(err)
	}
	if err := o.finish(f, l.used); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if f.runs[0].seqs.Len() == 0 {
		o.removeLocked(f) // the next one begins with the same number and takes its name
	}
	return nil
}

// finish gives a segment that is no longer written its final size and name. One
// without records keeps its name: it may be the one that says what was receipted.
func (o *Outbox) finish(f *segment, used int64) error {
	path := filepath.Join(o.opts.Dir, f.name)
	if err := os.Truncate(path, used); err != nil {
		return fatal(err)
	}
	o.mu.Lock()
	r := f.runs[0]
	name := sealedName(r.epoch.id, r.seqs)
	o.mu.Unlock()
	if r.seqs.Len() == 0 {
		o.mu.Lock()
		f.size = used
		o.mu.Unlock()
		return nil
	}
	f.mu.Lock()
	err := os.Rename(path, filepath.Join(o.opts.Dir, name))
	o.mu.Lock()
	f.name, f.size = name, used
	o.mu.Unlock()
	f.mu.Unlock()
	if err != nil {
		return fatal(err)
	}
	if err := syncDir(o.opts.Dir); err != nil {
		return fatal(err)
	}
	return nil
}

// roll begins a new segment, and with the first one a new epoch.
func (o *Outbox) roll(own bool) error {
	if err := o.findRoom(own); err != nil {
		return err
	}
	limit := o.spare
	if err := o.seal(); err != nil {
		return err
	}
	first := o.startRecord()
	o.mu.Lock()
	h := head{Epoch: o.current.id, Seqs: telemetry.Range{First: o.current.last + 1, Last: o.current.last}}
	o.mu.Unlock()
	o.stamp(&h)
	l, name, err := o.birth(&h, limit, first, o.allStates())
	if noSpace(err) {
		return wanting(err)
	}
	if err != nil {
		return fatal(err)
	}
	l.head = h
	f := &segment{name: name, size: limit, live: l}
	o.mu.Lock()
	r := &run{epoch: o.current, seqs: telemetry.Range{First: h.Seqs.First, Last: h.Seqs.First - 1}, file: f}
	f.runs = []*run{r}
	o.current.addRun(r)
	o.files = append(o.files, f)
	o.live = f
	o.mu.Unlock()
	o.publish(first, l.used)
	return o.setAside()
}

// startRecord returns the record that an epoch begins with, or none when it has begun.
func (o *Outbox) startRecord() []telemetry.Record {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.current.last > 0 {
		return nil
	}
	s := &telemetry.Start{Boot: o.opts.Boot, Version: o.opts.Version}
	if o.prior != nil {
		s.Previous, s.PreviousLast, s.PreviousClean = o.prior.id, o.prior.last, o.prior.clean
	}
	return []telemetry.Record{{Seq: 1, At: o.opts.Now(), Kind: telemetry.KindStart, Start: s}}
}

// allStates returns every epoch's state, for the first commit of a segment: the
// newest segment alone is asked for it after a restart.
func (o *Outbox) allStates() []state {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []state
	clear(o.changes.dirty)
	for _, e := range o.order {
		if len(e.receipted) > 0 || len(e.explained) > 0 || len(e.pins) > 0 || len(e.runs) == 0 && e.last > 0 {
			out = append(out, state{e.id, e.encodeState()})
		}
	}
	return out
}

// closeEpoch says in the live segment that the epoch was closed, and not cut off.
func (o *Outbox) closeEpoch() error {
	if o.live == nil || o.opts.unclean {
		return nil
	}
	o.live.live.head.Clean = true
	if err := o.write(nil); err != nil && !errors.Is(err, errNoRoom) {
		return fmt.Errorf("outbox: %w", err)
	}
	return nil
}

func (o *Outbox) closeLive() error {
	if o.live == nil || o.live.live == nil {
		return nil
	}
	f := o.live
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.live.close()
	o.mu.Lock()
	f.live = nil
	o.mu.Unlock()
	o.live = nil
	return err
}
