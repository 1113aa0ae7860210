package uplink

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

const (
	// answerWait is how long records of an earlier process wait for the cloud to
	// say what of them it has: sending them for nothing costs a metered link more.
	answerWait = 2 * time.Second
)

// listing is the rotation in which open epochs are named in headers.
type listing struct {
	rotor telemetry.Epoch // named last
	total int
	said  bool // a first frame went out, so the cloud will answer
}

func (l *listing) take(total int) { l.total = total }

// header returns the header of a frame of e that also names up to others
// further epochs: first those whose state at the cloud is not known, then the
// rest of the working set in rotation.
func (u *Uplink) header(e *epoch, others int) (telemetry.Header, []telemetry.Epoch) {
	h := telemetry.Header{
		Agent: u.o.Agent, Epoch: e.Epoch, Traceparent: traceparent(), Sent: u.o.Now(),
		Open: []telemetry.OpenEpoch{e.OpenEpoch}, OpenTotal: uint64(u.list.total),
	}
	if own := u.epochs.own(); own != e && own != nil {
		h.Open = append(h.Open, own.OpenEpoch)
	}
	var asked []telemetry.Epoch
	for _, x := range u.epochs.all {
		if len(asked) < others && x != e && x.unasked() {
			h.Open, asked = append(h.Open, x.OpenEpoch), append(asked, x.Epoch)
		}
	}
	return h, asked
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
	ask := false
	for _, e := range u.epochs.all {
		ask = ask || e.unasked()
	}
	quiet := now.Sub(u.link.last) >= u.o.IdleInterval
	if u.list.said && !ask && !quiet {
		return false
	}
	h, asked := u.header(own, telemetry.MaxOpen-1)
	data, err := u.seal(h, nil, u.o.Key)
	if err != nil {
		u.trouble(fmt.Errorf("encode empty frame: %w", err), now)
		return false
	}
	for _, id := range asked {
		u.epochs.find(id).askedAt = now
	}
	u.list.said = true
	u.launch(ctx, now, live, data, asked)
	return true
}

// unask takes back that epochs were named, for the frame did not leave.
func (u *Uplink) unask(ids []telemetry.Epoch) {
	for _, id := range ids {
		if e := u.epochs.find(id); e != nil {
			e.askedAt = time.Time{}
		}
	}
}
