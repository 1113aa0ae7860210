package uplink

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

const (
	old = 30 * time.Second // unsent for so long, a reading is backlog: new ones go first

	jumpRanges = telemetry.MaxHeld / 2 // the live lane opens no more ranges than this; the rest is for lost frames
	turns      = 3                     // live frames in a row before the backlog gets one, however much is new
	reserve    = 8                     // one part in so many of the window is kept from the backlog
	stubborn   = 3                     // tries after which a frame is split even if that might open a 17th range
	pipeline   = 4                     // frames that the window should hold, so that receipts come in a stream
	airtime    = 2 * time.Second       // of backlog inside Publish: what a live frame may find ahead of it
)

// laneState is what a lane keeps besides its flights.
type laneState struct {
	timeouts int           // receipts missed in a row
	last     time.Time     // of the last receipt, or missed receipt
	jitter   time.Duration // added to the next timeout
	sentAt   time.Time     // of the last new frame
	run      int           // new frames since the other lane had one
}

// send does one thing that can be done now, mostly to start a Publish. It
// reports whether there may be more.
func (u *Uplink) send(ctx context.Context, now time.Time) bool {
	if u.mayNot(now) {
		return false
	}
	if busy := u.inFlight(); busy == 0 || u.limit(backlog)-busy >= u.need {
		u.need = 0
	}
	if u.announce(ctx, now) {
		return true
	}
	if u.cloud.revoked {
		return false
	}
	first, second := live, backlog
	if u.lanes[live].run >= turns {
		first, second = backlog, live
	}
	return u.sendLane(ctx, first, now) || u.sendLane(ctx, second, now)
}

// mayNot reports whether nothing at all may be published now.
func (u *Uplink) mayNot(now time.Time) bool {
	return now.Before(u.cloud.holdUntil) || now.Before(u.pausedUntil) || !u.link.idle(now)
}

// sendLane sends the lane's missed frame again, else what is due, else what is new.
func (u *Uplink) sendLane(ctx context.Context, in lane, now time.Time) bool {
	if in == backlog && !u.backlogMay() {
		return false
	}
	if f := u.missed(in, now); f != nil {
		return u.resend(ctx, f, true, now)
	}
	if f := u.oldest(in, func(f *flight) bool { return f.state == due }); f != nil {
		return u.resend(ctx, f, false, now)
	}
	if u.need > 0 {
		u.full = true
		return false
	}
	if in == live {
		return u.newLive(ctx, now)
	}
	return u.newBacklog(ctx, now)
}

// backlogMay leaves one Publish, and the link for a while, to what is new.
func (u *Uplink) backlogMay() bool {
	n := u.link.bytes(backlog)
	return n == 0 || len(u.link.sends) < sendersMax-1 && n <= int(u.win.rate*airtime.Seconds())
}

// newLive cuts a frame of what was appended lately.
func (u *Uplink) newLive(ctx context.Context, now time.Time) bool {
	e := u.epochs.own()
	if e == nil || u.lingers(now) > 0 {
		return false
	}
	g, ok := e.gap(u.epochs.from, u.epochs.top(e), now)
	if !ok || e.worst(g) > telemetry.MaxHeld {
		return false
	}
	f, err := u.newFrame(ctx, e, g, live)
	if errors.Is(err, errNothing) && g.First > e.Durable {
		u.epochs.dirty = false
		return false
	}
	if err != nil {
		return u.fruitless(e, g, err, now)
	}
	if u.jump(e, f, now) {
		return true
	}
	u.lanes[live].sentAt = now
	u.more = !f.ended
	u.takeOff(ctx, e, g, f, live, now)
	return true
}

// lingers returns how long new readings wait for company.
func (u *Uplink) lingers(now time.Time) time.Duration {
	if u.more {
		return 0
	}
	return u.o.Linger - now.Sub(u.lanes[live].sentAt)
}

// jump moves the live lane to what is appended from now on, when what it was
// about to send is old. What it leaves behind is backlog.
func (u *Uplink) jump(e *epoch, f frame, now time.Time) bool {
	if u.o.Now().Boot-f.first.Boot <= old {
		return false
	}
	u.look(now)
	next := telemetry.Range{First: e.Durable + 1, Last: e.Durable + 1}
	if e.worst(next) > jumpRanges || next.First <= u.epochs.from {
		return false
	}
	u.epochs.from = next.First
	u.met.jumps.Inc()
	return true
}

// newBacklog cuts a frame of the oldest that is unsent.
func (u *Uplink) newBacklog(ctx context.Context, now time.Time) bool {
	for _, e := range u.epochs.all {
		top := e.Durable
		if e.own {
			top = u.epochs.from - 1
		}
		g, ok := e.gap(1, top, now)
		if !ok || !e.ready(now) || e.worst(g) > telemetry.MaxHeld {
			continue
		}
		f, err := u.newFrame(ctx, e, g, backlog)
		if err != nil {
			return u.fruitless(e, g, err, now)
		}
		u.lanes[backlog].sentAt = now
		u.takeOff(ctx, e, g, f, backlog, now)
		return true
	}
	u.epochs.due = u.epochs.due || u.epochs.waiting
	return false
}

// newFrame cuts what fits into the window of the gap.
func (u *Uplink) newFrame(ctx context.Context, e *epoch, g telemetry.Range, in lane) (frame, error) {
	size, most := u.budget(in)
	if size == 0 {
		u.full = true
		return frame{}, errRoom
	}
	f, err := u.cutFrame(ctx, e, g, size, most)
	if errors.Is(err, errRoom) {
		// A record larger than all that is free waits until there is room; were
		// others to start meanwhile, it would wait for ever. It is the window that
		// keeps it back, which must grow for it.
		u.full, u.need = true, len(f.data)
	}
	return f, err
}

// budget returns the size of the next new frame of a lane, 0 when there is no
// room for one, and how large a frame of a single record may be: all that is
// free, or whatever it takes when nothing is in flight, or a large record would
// never go.
func (u *Uplink) budget(in lane) (size, most int) {
	target := min(u.win.target(), max(int(u.win.limit())/pipeline, minTarget))
	busy := u.inFlight()
	if busy == 0 {
		return target, telemetry.MaxFrame
	}
	room := u.limit(in) - busy
	least := target / 2
	if in == live {
		least = min(least, minTarget/4)
	}
	if room < least {
		return 0, 0
	}
	return min(room, target), room
}

// limit returns the bytes that may be in flight when a lane sends.
func (u *Uplink) limit(in lane) int {
	n := int(u.win.limit())
	if in == backlog {
		n -= n / reserve
	}
	return n
}

// fruitless deals with a gap of which no frame was cut and reports whether
// there may be more to do.
func (u *Uplink) fruitless(e *epoch, g telemetry.Range, err error, now time.Time) bool {
	switch {
	case errors.Is(err, errNothing):
		g.Last = min(g.Last, e.Durable)
		e.lost(g)
		return true
	case errors.Is(err, errRoom):
		return false
	}
	u.trouble(err, now)
	return false
}

// takeOff publishes a new frame and makes a flight of it.
func (u *Uplink) takeOff(ctx context.Context, e *epoch, g telemetry.Range, f frame, in lane, now time.Time) {
	if f.seqs.First > g.First {
		e.lost(telemetry.Range{First: g.First, Last: f.seqs.First - 1})
	}
	fl := &flight{epoch: e, seqs: f.seqs, lane: in}
	e.insert(fl)
	u.launchFlight(ctx, fl, f, now)
	u.lanes[in].run++
	u.lanes[1-in].run = 0
}

// launchFlight hands the frame of a flight to Publish.
func (u *Uplink) launchFlight(ctx context.Context, fl *flight, f frame, now time.Time) {
	u.alarms.clear(AlarmOutbox) // it can be read
	busy := u.inFlight() > 0
	fl.size, fl.state, fl.sentAt, fl.overtaken = len(f.data), sending, now, time.Time{}
	fl.tries++
	fl.delivered, fl.limited = u.win.delivered, busy
	if f.paged {
		u.list.turn(now)
		u.ask(f.asked, now)
	}
	fl.send = u.launch(ctx, now, fl.lane, f.data, f.asked)
}

// resend cuts the frame of a flight anew. A frame that was missed goes whatever
// the window says, since its bytes are counted already.
func (u *Uplink) resend(ctx context.Context, fl *flight, counted bool, now time.Time) bool {
	if !counted && !u.fits(fl.lane, fl.size) {
		return false
	}
	size := telemetry.MaxFrame
	if t := u.win.target(); fl.size > 2*t && (fl.tries > stubborn || fl.epoch.worst(telemetry.Range{}) < telemetry.MaxHeld) {
		size = t // the link is slower than when it was cut
	}
	e := fl.epoch
	f, err := u.cutFrame(ctx, e, fl.seqs, size, telemetry.MaxFrame)
	if errors.Is(err, errNothing) {
		e.remove(fl)
		e.lost(fl.seqs)
		return true
	}
	if err != nil {
		u.trouble(err, now)
		return false
	}
	if !counted && !u.fits(fl.lane, len(f.data)) {
		fl.size = max(fl.size, len(f.data)) // the size of a part is a guess before
		return false
	}
	if f.seqs.First > fl.seqs.First {
		e.lost(telemetry.Range{First: fl.seqs.First, Last: f.seqs.First - 1})
		fl.seqs.First = f.seqs.First
	}
	if f.seqs.Last < fl.seqs.Last {
		fl.split(f.seqs.Last).state = due
	}
	u.met.resends.WithLabelValues(fl.lane.String()).Inc()
	u.launchFlight(ctx, fl, f, now)
	return true
}

// fits reports whether the window has room for size bytes that are due. What is
// larger than all of it has everything else wait until it can go alone.
func (u *Uplink) fits(in lane, size int) bool {
	busy, limit := u.inFlight(), u.limit(in)
	if busy == 0 || busy+size <= limit {
		return true
	}
	u.full = true
	if size > limit {
		u.need = size
	}
	return false
}

// trouble pauses everything after an error of the outbox, and logs it: the
// loop goes on, since the disk may.
func (u *Uplink) trouble(err error, now time.Time) {
	u.pausedUntil = now.Add(poll)
	u.alarms.raise(AlarmOutbox, err.Error(), now)
}
