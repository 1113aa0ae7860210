package uplink

import (
	"context"
	"slices"
	"time"
)

// Mode says what the uplink is doing, in a word or two.
type Mode string

// The modes.
const (
	Starting   Mode = "starting"    // no receipt yet in this life
	Unenrolled Mode = "unenrolled"  // no cloud is known: nothing is sent
	Revoked    Mode = "revoked"     // the cloud takes nothing more from this agent
	Offline    Mode = "offline"     // publishing fails
	Unanswered Mode = "unanswered"  // frames leave, but no receipts come
	Held       Mode = "held"        // the cloud asked to wait
	CatchingUp Mode = "catching up" // the backlog is not through yet
	Current    Mode = "current"     // nothing waits but what is in flight
)

// Status is what the status page shows of the uplink. It is at most a second old.
type Status struct {
	Mode    Mode      `json:"mode"`
	Error   string    `json:"error,omitempty"` // of the last publish, while it fails
	RetryAt time.Time `json:"retry_at,omitzero"`

	OldestUnsentAge      time.Duration `json:"oldest_unsent_age_ns"`      // of the oldest record never sent; 0: none
	OldestUnconfirmedAge time.Duration `json:"oldest_unconfirmed_age_ns"` // of the oldest record without a receipt; 0: none
	ConfirmedThrough     Position      `json:"confirmed_through"`         // everything up to here is held by the cloud or explained
	Unconfirmed          uint64        `json:"unconfirmed"`               // records without a receipt, in all epochs
	CaughtUpIn           time.Duration `json:"caught_up_in_ns"`           // at the present pace; 0: caught up; negative: not known, or never

	InFlight         int           `json:"in_flight_bytes"`
	Window           int64         `json:"window_bytes"`
	CloudWindow      int64         `json:"cloud_window_bytes"` // negative: no receipt yet
	RoundTrip        time.Duration `json:"round_trip_ns"`      // from the broker to the receipt, smoothed; 0: none yet
	BytesPerSecond   float64       `json:"bytes_per_second"`   // that the link carries, by receipts; 0: not known
	RecordsPerSecond float64       `json:"records_per_second"` // confirmed lately

	LastPublish time.Time `json:"last_publish,omitzero"` // that succeeded
	LastReceipt time.Time `json:"last_receipt,omitzero"`
	Cloud       string    `json:"cloud,omitempty"` // id, from the last receipt
	Revision    uint64    `json:"revision"`
	OpenEpochs  int       `json:"open_epochs"`
	Alarms      []Alarm   `json:"alarms,omitempty"`
}

// Position is a place in the outbox's log.
type Position struct {
	Epoch string `json:"epoch"`
	Seq   uint64 `json:"seq"`
}

// Alarm is something that should never be. It stays until it is over, or the
// process ends.
type Alarm struct {
	Kind  string    `json:"kind"` // one of the Alarm constants
	Text  string    `json:"text"`
	Since time.Time `json:"since"`
	Count uint64    `json:"count"` // how often it was raised
}

// The kinds of alarm. There is at most one of each.
const (
	AlarmOutbox  = "outbox"  // reading or trimming failed; it is retried
	AlarmReceipt = "receipt" // a signed receipt speaks of what this device never made
	AlarmRefused = "refused" // the cloud refuses a record that came by itself
	AlarmHole    = "hole"    // the cloud lacks records that the device has not, for no known reason
	AlarmRevoked = "revoked" // the cloud takes nothing more from this agent
)

// alarms are at most one of each kind. The slice is never changed in place: a
// Status may hold it.
type alarms []Alarm

func (a *alarms) raise(kind, text string, now time.Time) {
	next := slices.Clone(*a)
	i := slices.IndexFunc(next, func(x Alarm) bool { return x.Kind == kind })
	if i < 0 {
		next = append(next, Alarm{Kind: kind, Since: now})
		i = len(next) - 1
	}
	next[i].Text = text
	next[i].Count++
	*a = next
}

func (a *alarms) clear(kind string) {
	if slices.ContainsFunc(*a, func(x Alarm) bool { return x.Kind == kind }) {
		*a = slices.DeleteFunc(slices.Clone(*a), func(x Alarm) bool { return x.Kind == kind })
	}
}

// Status returns how things stand. It may be called from any goroutine.
func (u *Uplink) Status() Status {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.status
}

// publish copies the state for Status and the gauges.
func (u *Uplink) publish() {
	s := Status{
		Mode: u.mode, OldestUnsentAge: u.pace.unsent, OldestUnconfirmedAge: u.pace.unconfirmed,
		ConfirmedThrough: u.pace.through, Unconfirmed: u.pace.left, CaughtUpIn: u.pace.caughtUp,
		InFlight: u.inFlight(), Window: u.win.limit(), CloudWindow: u.win.cloud,
		RoundTrip: u.win.srtt, BytesPerSecond: u.win.rate, RecordsPerSecond: u.pace.out,
		LastPublish: u.link.lastOK, LastReceipt: u.cloud.at, Cloud: u.cloud.id, Revision: u.cloud.revision,
		OpenEpochs: u.epochs.listed, Alarms: u.alarms,
	}
	if u.link.err != nil {
		s.Error, s.RetryAt = u.link.err.Error(), u.link.until
	}
	u.mu.Lock()
	u.status = s
	u.mu.Unlock()
	u.met.inFlight.Set(float64(s.InFlight))
	u.met.window.Set(float64(s.Window))
	u.met.unconfirmed.Set(float64(s.Unconfirmed))
	u.met.oldest.Set(s.OldestUnsentAge.Seconds())
	u.met.rtt.Set(s.RoundTrip.Seconds())
}

// pace is how fast records come and go, looked at once a second.
type pace struct {
	at        time.Time
	confirmed uint64 // records, since the last look
	durable   uint64 // last seq of our own epoch at the last look
	in, out   float64

	unsent, unconfirmed time.Duration
	through             Position
	left                uint64
	caughtUp            time.Duration
}

const (
	smoothing = 0.2  // share of the newest second in a pace: it follows within some ten
	clockSet  = 1e18 // nanoseconds since 1970 (2001): a wall clock below it was never set
)

// measure brings the pace up to date.
func (u *Uplink) measure(ctx context.Context, now time.Time) {
	p, own := &u.pace, u.epochs.own()
	took := now.Sub(p.at)
	if own == nil || took < tick {
		return
	}
	if !p.at.IsZero() {
		p.in += (float64(own.Durable-p.durable)/took.Seconds() - p.in) * smoothing
		p.out += (float64(p.confirmed)/took.Seconds() - p.out) * smoothing
	}
	p.at, p.confirmed, p.durable = now, 0, own.Durable
	p.left = u.unconfirmed()
	p.through = u.through()
	p.unsent, p.unconfirmed = u.age(ctx, u.firstUnsent(now)), u.age(ctx, u.firstUnconfirmed())
	p.caughtUp = p.eta(u.behind(now))
}

// eta returns in how long the backlog will be through: what is left, at the
// speed at which it shrinks.
func (p *pace) eta(behind bool) time.Duration {
	switch net := p.out - p.in; {
	case !behind:
		return 0
	case net <= 0 || float64(p.left)/net > (1<<31):
		return -1
	default:
		return time.Duration(float64(p.left) / net * float64(time.Second))
	}
}

// unconfirmed returns how many records have no receipt: what the outbox has not
// trimmed, less what the cloud holds above its watermarks.
func (u *Uplink) unconfirmed() uint64 {
	n := u.epochs.pending
	for _, e := range u.epochs.all {
		n -= min(n, e.held.Len()+e.mark-min(e.mark, e.Trimmed))
	}
	return n
}

// through returns up to where all is confirmed.
func (u *Uplink) through() Position {
	e := u.epochs.own()
	for _, x := range u.epochs.all {
		if x.mark < x.Durable {
			e = x
			break
		}
	}
	return Position{Epoch: e.Epoch.String(), Seq: e.mark}
}

// spot is one record of one epoch.
type spot struct {
	e   *epoch
	seq uint64
}

// firstUnsent returns the oldest record that was never sent.
func (u *Uplink) firstUnsent(now time.Time) spot {
	for _, e := range u.epochs.all {
		if g, ok := e.gap(1, e.Durable, now); ok {
			return spot{e, g.First}
		}
	}
	return spot{}
}

// firstUnconfirmed returns the oldest record that has no receipt.
func (u *Uplink) firstUnconfirmed() spot {
	for _, e := range u.epochs.all {
		if e.mark < e.Durable {
			return spot{e, e.mark + 1}
		}
	}
	return spot{}
}

// age returns how old the record is, 0 when there is none. Of records of
// another boot only the wall clock tells, where it was set; else they are at
// least as old as this boot.
func (u *Uplink) age(ctx context.Context, s spot) time.Duration {
	if s.e == nil {
		return 0
	}
	recs, err := u.o.Outbox.Read(ctx, s.e.Epoch, s.seq, 1, 1)
	if err != nil || len(recs) == 0 {
		return 0
	}
	now, at := u.o.Now(), recs[0].At
	switch {
	case s.e.own:
		return max(now.Boot-at.Boot, 1)
	case now.Wall > clockSet && at.Wall > clockSet:
		return max(time.Duration(now.Wall-at.Wall), 1)
	}
	return now.Boot
}
