package uplink

import (
	"time"
)

// setMode notes what the uplink is doing and logs it when it changes.
func (u *Uplink) setMode(m Mode) {
	if m == u.mode {
		return
	}
	before := u.mode
	u.mode = m
	switch {
	case m == Offline:
		u.log.Warn("uplink: cannot publish, retrying", "error", u.link.err, "unconfirmed", u.epochs.pending)
	case m == Unanswered:
		u.log.Warn("uplink: no receipts, keeping everything", "last_receipt", u.cloud.at, "unconfirmed", u.epochs.pending)
	case m == Revoked:
		u.log.Error("uplink: revoked, keeping everything", "cloud", u.cloud.id)
	case m == Unenrolled:
		u.log.Warn("uplink: not enrolled, keeping everything")
	case before == Offline || before == Unanswered || before == Revoked || before == Unenrolled:
		u.log.Info("uplink: recovered", "from", before, "mode", m, "unconfirmed", u.epochs.pending)
	default: // the pace changes with every receipt: not worth a line each
		u.log.Debug("uplink: mode", "from", before, "mode", m)
	}
}

// modeNow says in one word what the state amounts to.
func (u *Uplink) modeNow(now time.Time) Mode {
	switch {
	case u.cloud.revoked:
		return Revoked
	case u.link.fails > 1: // one failure is no state yet
		return Offline
	case now.Before(u.cloud.holdUntil):
		return Held
	case u.lanes[live].timeouts > 1 || u.lanes[backlog].timeouts > 1:
		return Unanswered
	case u.cloud.at.IsZero(): // whatever waits, nobody knows yet that it can leave
		return Starting
	case u.behind(now):
		return CatchingUp
	}
	return Current
}

// behind reports whether the backlog lane has something to send or in flight.
func (u *Uplink) behind(now time.Time) bool {
	for _, e := range u.epochs.all {
		if !e.own && e.mark < e.Durable {
			return true
		}
		if _, ok := e.gap(1, u.epochs.from-1, now); ok && e.own {
			return true
		}
	}
	return u.epochs.waiting || u.oldest(backlog, func(*flight) bool { return true }) != nil
}

// wake returns the next moment at which something is due without anything
// happening first.
func (u *Uplink) wake(now time.Time) time.Time {
	next := now.Add(tick)
	at := func(t time.Time) {
		if t.After(now) && t.Before(next) {
			next = t
		}
	}
	at(u.epochs.refreshAt())
	at(u.cloud.holdUntil)
	at(u.pausedUntil)
	at(u.link.last.Add(u.o.IdleInterval))
	if u.link.fails > 0 {
		at(u.link.until)
	}
	at(u.lanes[live].sentAt.Add(u.o.Linger))
	for in := range lanes {
		if f := u.waitsLongest(in); f != nil {
			at(u.deadline(f))
		}
	}
	for _, e := range u.epochs.all {
		if !e.ready(now) && !e.askedAt.IsZero() {
			at(e.askedAt.Add(answerWait))
		}
		for _, f := range e.flights {
			at(f.overtaken)
		}
	}
	return next
}
