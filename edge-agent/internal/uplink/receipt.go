package uplink

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

const (
	// skew is how far two replicas' clocks and the order of delivery may be apart
	// before a lower revision means that the cloud went back.
	skew = 2 * time.Second
	// patience is how long receipts may look stale before they are believed: a
	// cloud that went back with a clock that did so too.
	patience = time.Minute

	againWait = time.Minute // what was asked for again is on its way so long; then the answer may have been lost

	maxHold    = time.Hour        // longest pause that a receipt can order; the next receipt can order another
	parkedWait = 10 * time.Minute // between two tries of a record that the cloud refuses
)

// cloudState is what receipts say besides what is held.
type cloudState struct {
	id        string
	revision  uint64
	issued    time.Time // by the cloud's clock; only ever compared with itself
	at        time.Time // when the last one that was believed came
	since     time.Time // of the first of the run of stale ones; zero: none
	staleness time.Time // when the last of those was issued
	holdUntil time.Time // retry_after
	revoked   bool
}

// HandleReceipt takes one receipt as it came from the pub/sub, and may be
// called from any goroutine. An empty message is no receipt: the sidecar sends
// it when it hears the broker again, and an uplink that waits to try tries now.
// It deletes nothing, so it needs no signature. It returns an error for bytes that are no receipt
// of our cloud for us; they change nothing. Stale and repeated receipts are no
// error and change nothing either.
func (u *Uplink) HandleReceipt(b []byte) error {
	if len(b) == 0 {
		select {
		case u.opened <- struct{}{}:
		default:
		}
		return nil
	}
	root := u.o.Root()
	if root == nil {
		u.met.receipts.WithLabelValues("unenrolled").Inc()
		return ErrNotEnrolled
	}
	r, err := u.open(b, u.o.Agent, root, u.o.Trusted())
	if err != nil {
		u.met.receipts.WithLabelValues("refused").Inc()
		return fmt.Errorf("open receipt: %w", err)
	}
	if u.credulous {
		return nil
	}
	select {
	case u.receipts <- r:
	default: // the loop is behind; the next receipt says the same and more
		u.met.receipts.WithLabelValues("dropped").Inc()
	}
	return nil
}

// receive applies a verified receipt.
func (u *Uplink) receive(ctx context.Context, r telemetry.Receipt) {
	now := time.Now()
	u.link.until = now // whatever it says, it came: the way is open
	back, ok := u.cloud.order(r, now)
	if !ok {
		u.met.receipts.WithLabelValues("stale").Inc()
		return
	}
	if err := u.o.Outbox.Trim(r); err != nil {
		// Also what the device never made: whatever this receipt speaks of, it is
		// not our outbox, so nothing in it is used.
		u.met.receipts.WithLabelValues("impossible").Inc()
		u.alarms.raise(AlarmReceipt, err.Error(), now)
		return
	}
	u.met.receipts.WithLabelValues("good").Inc()
	u.cloud.accept(r, now)
	if r.RetryAfter > 0 {
		// Never earlier, and not all agents at the same moment.
		u.cloud.holdUntil = u.cloud.holdUntil.Add(backoff(u.rand, r.RetryAfter/2, maxHold, 0))
		for in := range lanes { // a cloud that asks for time is slow, not deaf
			u.lanes[in].last = u.cloud.holdUntil
		}
	}
	u.alarms.clear(AlarmReceipt)
	if u.alarms.clear(AlarmRevoked); r.Revoked {
		u.alarms.raise(AlarmRevoked, "the cloud "+r.Cloud+" takes nothing more from this agent", now)
	}
	if back || u.regressed(r) {
		u.wentBack()
	}
	u.win.cloud = int64(min(r.Window, uint64(u.o.MaxWindow)))
	for _, a := range r.Again { // first, so that Epochs finds what this puts back to work
		u.again(a, now)
	}
	for _, e := range r.Epochs {
		u.apply(e, now)
	}
	for _, x := range r.Rejected {
		u.reject(x, now)
	}
}

// order decides whether a receipt is believed, and whether it shows that the
// cloud went back. Revisions order the receipts of one history; only the time
// of issue tells a replayed receipt from one of a cloud restored from a backup.
func (c *cloudState) order(r telemetry.Receipt, now time.Time) (back, ok bool) {
	if c.at.IsZero() || r.Cloud != c.id {
		return !c.at.IsZero(), true
	}
	later := r.Issued.Sub(c.issued)
	switch {
	case r.Revision >= c.revision && later >= -skew:
		return false, true
	case r.Revision < c.revision && later > skew:
		return true, true
	}
	if c.since.IsZero() || !r.Issued.After(c.staleness) {
		if c.since.IsZero() {
			c.since, c.staleness = now, r.Issued
		}
		return false, false
	}
	c.staleness = r.Issued
	if now.Sub(c.since) < patience || now.Sub(c.at) < patience {
		return false, false
	}
	return true, true
}

// accept notes a receipt that is believed.
func (c *cloudState) accept(r telemetry.Receipt, now time.Time) {
	c.id, c.revision, c.issued, c.at = r.Cloud, r.Revision, r.Issued, now
	c.since, c.staleness = time.Time{}, time.Time{}
	c.revoked = r.Revoked
	c.holdUntil = time.Time{}
	if r.RetryAfter > 0 {
		c.holdUntil = now.Add(min(r.RetryAfter, maxHold))
	}
}

// regressed reports whether a later statement says less than an earlier one: a
// cloud restored from a backup may well go on with a higher revision.
func (u *Uplink) regressed(r telemetry.Receipt) bool {
	return slices.ContainsFunc(r.Epochs, func(x telemetry.EpochReceipt) bool {
		e := u.epochs.find(x.Epoch)
		return e != nil && e.known && x.Watermark < e.mark
	})
}

// wentBack forgets what the cloud said before it lost it.
func (u *Uplink) wentBack() {
	u.met.wentBack.Inc()
	u.log.Warn("uplink: cloud went back", "cloud", u.cloud.id, "revision", u.cloud.revision)
	for _, e := range u.epochs.all {
		e.known, e.askedAt, e.again, e.explainedAt = false, time.Time{}, nil, time.Time{}
	}
}

// apply takes what the cloud holds of one epoch.
func (u *Uplink) apply(r telemetry.EpochReceipt, now time.Time) {
	e := u.epochs.find(r.Epoch)
	if e == nil {
		return // the outbox trimmed it; there is nothing to send of it
	}
	e.known, e.saidAt = true, now
	n := e.take(r)
	u.met.confirmed.Add(float64(n))
	u.pace.confirmed += n
	done, bytes := e.confirm()
	u.win.grow(bytes, u.full)
	for _, f := range done {
		u.landed(f, now)
	}
	if !e.own && e.mark >= e.Durable {
		u.epochs.due = true // it ended, or nearly so: room for the next
	}
}

// take replaces what was known of the cloud's state and returns how many
// records that confirmed.
func (e *epoch) take(r telemetry.EpochReceipt) uint64 {
	before := e.mark + e.held.Len()
	e.mark, e.held = r.Watermark, nil
	for _, h := range r.Held {
		e.held = e.held.Add(h)
	}
	passed := telemetry.Range{First: 1, Last: e.mark}
	e.gone = e.gone.Sub(passed)
	e.again = e.again.Sub(passed)
	e.limits = slices.DeleteFunc(e.limits, func(l limit) bool { return l.seqs.Last <= e.mark })
	e.parked = slices.DeleteFunc(e.parked, func(p parked) bool { return p.seq <= e.mark })
	for _, h := range e.held {
		e.again = e.again.Sub(h)
	}
	if after := e.mark + e.held.Len(); after > before {
		return after - before
	}
	return 0
}

// landed learns from a flight that has its receipt: about the link, and about
// those sent before it on the same lane that have none.
func (u *Uplink) landed(f *flight, now time.Time) {
	if f.state == due {
		return // an old copy arrived; it says nothing of the time it took
	}
	u.win.sample(f, now)
	s := &u.lanes[f.lane]
	s.timeouts, s.last, s.jitter = 0, now, backoff(u.rand, u.win.rto(), maxRTO, 0)
	if f.state != sent || f.tries > 1 && now.Sub(f.takenAt) < u.win.srtt*3/4 {
		return // faster than its Publish, or perhaps the receipt of an earlier copy
	}
	wait := min(max(u.win.srtt/2, 100*time.Millisecond), firstRTO)
	for _, e := range u.epochs.all {
		for _, x := range e.flights {
			if x.lane == f.lane && x.state == sent && x.overtaken.IsZero() && x.takenAt.Before(f.takenAt) {
				x.overtaken = now.Add(wait + backoff(u.rand, wait, firstRTO, 0))
			}
		}
	}
}

// reject has a frame cut finer that the cloud could not take. A record that it
// refuses by itself is kept, and tried now and then.
func (u *Uplink) reject(x telemetry.Rejection, now time.Time) {
	e := u.epochs.find(x.Epoch)
	if e == nil {
		return
	}
	u.met.rejected.Inc()
	for i := 0; i < len(e.flights); {
		f := e.flights[i]
		if f.seqs.Last < x.Seqs.First || f.seqs.First > x.Seqs.Last {
			i++
			continue
		}
		e.remove(f)
		if n := f.seqs.Len(); n > 1 {
			e.limits = append(e.limits, limit{seqs: f.seqs, records: (n + 1) / 2})
			continue
		}
		e.parked = slices.DeleteFunc(e.parked, func(p parked) bool { return p.seq == f.seqs.First })
		e.parked = append(e.parked, parked{seq: f.seqs.First, until: now.Add(parkedWait)})
		u.alarms.raise(AlarmRefused, fmt.Sprintf("record %s/%d: %s", e.Epoch, f.seqs.First, x.Reason), now)
	}
}

// again gives back to the lanes what the cloud asks for once more. The outbox
// keeps it from being trimmed, or appends a loss record for what it has not.
func (u *Uplink) again(a telemetry.EpochRange, now time.Time) {
	e := u.epochs.find(a.Epoch)
	missing := ranges.Set{a.Seqs}
	if e != nil && now.Sub(e.againAt) < againWait {
		missing = e.again.Missing(a.Seqs) // the rest is on its way
	}
	for _, r := range missing {
		if err := u.o.Outbox.Again(a.Epoch, r); err != nil {
			u.alarms.raise(AlarmReceipt, fmt.Sprintf("asked for records %d to %d of epoch %s: %s", r.First, r.Last, a.Epoch, err), now)
			continue
		}
		u.met.again.Add(float64(r.Len()))
		u.epochs.due = true
		if e == nil {
			e = u.revive(a.Epoch)
		}
		if e != nil {
			e.wanted(r, now)
		}
	}
}

// revive puts an epoch that was receipted and kept back into the working set.
// It returns nil when nothing of it is on the device.
func (u *Uplink) revive(id telemetry.Epoch) *epoch {
	for _, o := range u.o.Outbox.Epochs() {
		if o.Epoch == id {
			e := u.epochs.ensure(o)
			e.known = true
			return e
		}
	}
	return nil
}

// wanted makes r something to be sent.
func (e *epoch) wanted(r telemetry.Range, now time.Time) {
	if now.Sub(e.againAt) >= againWait {
		e.again, e.againAt = nil, now
	}
	e.again = e.again.Add(r)
	e.gone = e.gone.Sub(r)
	e.held = e.held.Sub(r)
	e.mark = min(e.mark, r.First-1)
}
