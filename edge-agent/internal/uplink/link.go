package uplink

import (
	"context"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

const (
	firstRetry = 500 * time.Millisecond // after the first publish that failed
	maxRetry   = 8 * time.Second        // a probe costs the sidecar on this machine next to nothing, and people wait for the end of an outage
	hintPause  = 2 * time.Second        // between two probes that were brought forward, however often the sidecar speaks
	hang       = 2 * time.Minute        // backstop above any publisher's own deadline
)

// link is the way to the broker, as Publish shows it.
type link struct {
	sends  map[uint64]carried // Publish calls that have not returned
	next   uint64
	fails  int       // in a row
	until  time.Time // nothing is published before, while fails > 0
	hinted time.Time // when a probe was last brought forward
	lastOK time.Time
	last   time.Time // when anything was last handed to Publish
	err    error     // of the last failure, while fails > 0
}

// carried is one frame inside Publish.
type carried struct {
	lane  lane
	size  int
	at    time.Time
	asked []telemetry.Epoch // listed in it, to be asked for again if it fails
}

// result is how one Publish call ended.
type result struct {
	id  uint64
	err error
}

// idle reports whether a Publish may start now.
func (l *link) idle(now time.Time) bool {
	if l.fails > 0 {
		return len(l.sends) == 0 && !now.Before(l.until) // one probe at a time
	}
	return len(l.sends) < sendersMax
}

// reopen ends the wait for the next probe because the sidecar says that the
// broker is there, or shortens it when the sidecar has just said so before. The
// sidecars of a thousand agents come back at random moments already, so no jitter
// is added.
func (l *link) reopen(now time.Time) {
	at := now
	if next := l.hinted.Add(hintPause); next.After(now) {
		at = next
	}
	if l.fails == 0 || !at.Before(l.until) {
		return
	}
	l.hinted, l.until = at, at
}

// bytes returns how many bytes of a lane are inside Publish.
func (l *link) bytes(in lane) (n int) {
	for _, s := range l.sends {
		if s.lane == in {
			n += s.size
		}
	}
	return n
}

// launch publishes data in a goroutine of its own and returns its number.
func (u *Uplink) launch(ctx context.Context, now time.Time, in lane, data []byte, asked []telemetry.Epoch) uint64 {
	l := &u.link
	l.next++
	id := l.next
	if l.sends == nil {
		l.sends = make(map[uint64]carried, sendersMax)
	}
	l.sends[id] = carried{lane: in, size: len(data), at: now, asked: asked}
	l.last = now
	u.met.frames.WithLabelValues(in.String()).Inc()
	u.met.bytes.WithLabelValues(in.String()).Add(float64(len(data)))
	u.senders.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, hang)
		defer cancel()
		// The channel has room for every call under way, so this never blocks.
		u.results <- result{id, u.o.Publisher.Publish(ctx, in.topic(), data)}
	})
	return id
}

// settle takes the end of a Publish call. Success moves nothing but the timers;
// failure keeps the frame as due, since it may have arrived all the same.
func (u *Uplink) settle(r result) {
	now := time.Now()
	s := u.link.sends[r.id]
	delete(u.link.sends, r.id)
	to := sent
	if r.err != nil {
		to = due
		u.failed(r.err, now)
		u.win.slow(s.size, now.Sub(s.at))
		u.unask(s.asked)
	} else {
		if u.link.fails > 0 {
			u.win.restart()
		}
		u.link.fails, u.link.err, u.link.lastOK = 0, nil, now
		if u.credulous {
			defer u.believe(r.id)
		}
	}
	for _, e := range u.epochs.all {
		for _, f := range e.flights {
			if f.send == r.id && f.state == sending {
				f.state, f.takenAt = to, now
			}
		}
	}
}

// failed starts or lengthens the wait after a Publish that failed.
func (u *Uplink) failed(err error, now time.Time) {
	u.met.publishErrors.Inc()
	u.link.until = now.Add(firstRetry/4 + backoff(u.rand, firstRetry, maxRetry, u.link.fails))
	u.link.fails++
	u.link.err = err
}
