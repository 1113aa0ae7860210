package uplink

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// quietFor is how long the backlog must have had nothing to send before a hole
// counts as unexplained: until then the record that explains it may be on its
// way, or in an epoch that is not in the working set yet.
const quietFor = time.Minute

// explainAgain is how long the answer to a hole may take: a cloud that went back
// unnoticed may have lost it.
const explainAgain = 10 * time.Minute

// explainWait bounds one append to the outbox, which holds up the loop.
const explainWait = 5 * time.Second

// quiet is since when everything on the device has been at the cloud.
type quiet struct {
	since time.Time // zero: not now
	fence uint64    // last seq of our own epoch then
}

// explain answers holes: what the cloud lacks, the device has not, and nothing
// on the device gives a reason for. The answer is a loss record, so that the
// watermark can always move.
func (u *Uplink) explain(ctx context.Context, now time.Time) {
	u.recheck(ctx, now)
	if !u.allSaid(now) {
		u.quiet = quiet{}
		return
	}
	own := u.epochs.own()
	if u.quiet.since.IsZero() {
		u.quiet = quiet{since: now, fence: own.Durable}
	}
	ripe := u.quiet.since.Add(quietFor)
	if now.Before(ripe) || own.mark < u.quiet.fence && !own.settledTo(u.quiet.fence) {
		return
	}
	for _, e := range u.epochs.all {
		switch {
		case len(e.gone) == 0:
		case now.Sub(e.explainedAt) < explainAgain: // the answer is on its way
		case e.saidAt.Before(ripe):
			e.question(now)
		default:
			u.explainEpoch(ctx, e, now)
		}
	}
}

// allSaid reports whether nothing is left to send or to be answered but what is
// new, and receipts come.
func (u *Uplink) allSaid(now time.Time) bool {
	if u.epochs.own() == nil || u.link.fails > 0 || u.cloud.at.IsZero() || now.Sub(u.cloud.at) > 2*u.o.IdleInterval {
		return false
	}
	for _, e := range u.epochs.all {
		top := e.Durable
		if e.own {
			top = u.epochs.from - 1
		}
		if _, ok := e.gap(1, top, now); ok {
			return false
		}
	}
	return u.oldest(backlog, func(*flight) bool { return true }) == nil
}

// settledTo reports whether the cloud holds all up to seq that the device has.
func (e *epoch) settledTo(seq uint64) bool {
	has := e.held
	for _, r := range e.gone {
		has = has.Add(r)
	}
	return has.Covers(telemetry.Range{First: e.mark + 1, Last: seq})
}

// question has the cloud asked about the epoch once more.
func (e *epoch) question(now time.Time) {
	if e.own || e.askedAt.After(now.Add(-quietFor)) {
		return
	}
	e.known, e.askedAt = false, time.Time{}
}

// explainEpoch appends a loss record for each hole of the epoch.
func (u *Uplink) explainEpoch(ctx context.Context, e *epoch, now time.Time) {
	for _, g := range e.gone {
		for _, r := range e.held.Missing(g) {
			if r.First <= e.mark {
				continue
			}
			if u.isBack(ctx, e, r) {
				return
			}
			loss := telemetry.Loss{Epoch: e.Epoch, Seqs: r, Reason: telemetry.ReasonUnknown, Count: r.Len()}
			if err := u.append(ctx, loss); err != nil {
				u.trouble(err, now)
				return
			}
			e.explainedAt = now
			u.met.explained.Add(float64(r.Len()))
			u.alarms.raise(AlarmHole, fmt.Sprintf("records %d to %d of epoch %s are neither here nor in the cloud, for no known reason", r.First, r.Last, e.Epoch), now)
			u.quiet = quiet{}
		}
	}
}

// append has the outbox append the loss record.
func (u *Uplink) append(ctx context.Context, loss telemetry.Loss) error {
	ctx, cancel := context.WithTimeout(ctx, explainWait)
	defer cancel()
	if err := u.o.Outbox.Explain(ctx, loss); err != nil {
		return fmt.Errorf("explain a hole: %w", err)
	}
	return nil
}

// recheck looks once a minute whether what was gone is back: a damaged segment
// is off the shelf while what is readable of it is saved.
func (u *Uplink) recheck(ctx context.Context, now time.Time) {
	if now.Sub(u.checked) < quietFor {
		return
	}
	u.checked = now
	for _, e := range u.epochs.all {
		for _, r := range e.gone {
			if u.isBack(ctx, e, r) {
				break // the set has changed
			}
		}
	}
}

// isBack takes out of what is gone a run that can be read after all.
func (u *Uplink) isBack(ctx context.Context, e *epoch, r telemetry.Range) bool {
	recs, err := u.o.Outbox.Read(ctx, e.Epoch, max(r.First, e.mark+1), 1, 1)
	if err != nil || len(recs) == 0 || recs[0].Seq > r.Last {
		return false
	}
	e.gone = e.gone.Sub(telemetry.Range{First: recs[0].Seq, Last: r.Last})
	return true
}
