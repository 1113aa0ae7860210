package uplink

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

const (
	// answerWait is how long records of an earlier process wait for the cloud to
	// say what of them it has: sending them for nothing costs a metered link more.
	answerWait = 2 * time.Second

	// A full page of epochs is about 400 bytes. Frames of this size carry one, at
	// most once in pagePause, so it never costs a tenth of the link.
	pageFrame = 4 << 10
	pagePause = time.Second

	page = telemetry.MaxOpen - 2 // epochs named besides the frame's own and the device's newest
)

// listing is the rotation in which open epochs are named in headers, so that
// the cloud comes to know of each what is still on the device.
type listing struct {
	next  []telemetry.OpenEpoch // the next page, as of the last refresh
	rotor telemetry.Epoch       // the last of the page before
	total int
	said  bool      // a first frame went out, so the cloud will answer
	at    time.Time // when a page was last sent
}

// take copies the page that follows the rotor from the outbox's list.
func (l *listing) take(list []telemetry.OpenEpoch) {
	l.total, l.next = len(list), l.next[:0]
	if len(list) < 2 {
		return
	}
	others := list[:len(list)-1]
	i, found := slices.BinarySearchFunc(others, l.rotor, func(o telemetry.OpenEpoch, id telemetry.Epoch) int {
		return o.Epoch.Compare(id)
	})
	if found {
		i++
	}
	for n := range min(page, len(others)) {
		l.next = append(l.next, others[(i+n)%len(others)])
	}
}

// turn moves on to the next page, which the next refresh copies.
func (l *listing) turn(now time.Time) {
	l.at = now
	if n := len(l.next); n > 0 {
		l.rotor = l.next[n-1].Epoch
	}
}

// header returns the header of a frame of e. With paged it also names other
// epochs: first those of which the cloud's state is not known, which it returns,
// then the next of all in rotation.
func (u *Uplink) header(e *epoch, paged bool) (telemetry.Header, []telemetry.Epoch) {
	h := telemetry.Header{
		Agent: u.o.Agent, Epoch: e.Epoch, Traceparent: traceparent(), Sent: u.o.Now(),
		Open: []telemetry.OpenEpoch{e.OpenEpoch}, OpenTotal: uint64(max(u.list.total, 1)),
	}
	if own := u.epochs.own(); own != nil && own != e {
		h.Open = append(h.Open, own.OpenEpoch)
	}
	if !paged {
		return h, nil
	}
	var asked []telemetry.Epoch
	for _, x := range u.epochs.all {
		if len(asked) < page && x != e && x.unasked() {
			h.Open, asked = append(h.Open, x.OpenEpoch), append(asked, x.Epoch)
		}
	}
	for _, o := range u.list.next {
		named := slices.ContainsFunc(h.Open, func(x telemetry.OpenEpoch) bool { return x.Epoch == o.Epoch })
		if len(h.Open) < telemetry.MaxOpen && !named {
			h.Open = append(h.Open, o)
		}
	}
	return h, asked
}

// paged reports whether a frame of about size bytes names other epochs too.
func (u *Uplink) paged(size int, now time.Time) bool {
	return u.list.total > 1 && size >= pageFrame && now.Sub(u.list.at) >= pagePause
}

// unasked reports whether the cloud has not yet been asked about the epoch.
func (e *epoch) unasked() bool { return !e.own && !e.known && e.askedAt.IsZero() }

// ready reports whether records of the epoch may be sent as backlog.
func (e *epoch) ready(now time.Time) bool {
	return e.own || e.known || !e.askedAt.IsZero() && now.Sub(e.askedAt) >= answerWait
}

// announce sends an empty frame when one is due: at the start, when epochs wait
// to be asked about, and after a silence.
func (u *Uplink) announce(ctx context.Context, now time.Time) bool {
	own := u.epochs.own()
	if own == nil {
		return false
	}
	ask := slices.ContainsFunc(u.epochs.all, (*epoch).unasked)
	quiet := now.Sub(u.link.last) >= u.o.IdleInterval
	if u.list.said && !ask && !quiet {
		return false
	}
	h, asked := u.header(own, true)
	data, err := u.seal(h, nil, u.o.Key)
	if err != nil {
		u.trouble(fmt.Errorf("encode empty frame: %w", err), now)
		return false
	}
	u.list.said = true
	u.list.turn(now)
	u.ask(asked, now)
	u.launch(ctx, now, live, data, asked)
	return true
}

// ask notes that the cloud was asked about the epochs.
func (u *Uplink) ask(ids []telemetry.Epoch, now time.Time) {
	for _, id := range ids {
		if e := u.epochs.find(id); e != nil {
			e.askedAt = now
		}
	}
}

// unask takes that back, for the frame did not leave.
func (u *Uplink) unask(ids []telemetry.Epoch) {
	for _, id := range ids {
		if e := u.epochs.find(id); e != nil {
			e.askedAt = time.Time{}
		}
	}
}
