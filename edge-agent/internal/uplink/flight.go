package uplink

import (
	"cmp"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// lane is one of the uplink's two queues: what is new, and what waited.
type lane uint8

const (
	live lane = iota
	backlog
	lanes
)

// topic returns the pub/sub topic of the lane.
func (l lane) topic() string {
	if l == live {
		return TopicLive
	}
	return TopicBacklog
}

func (l lane) String() string {
	if l == live {
		return "live"
	}
	return "backlog"
}

// state says where a flight is between the outbox and its receipt.
type state uint8

const (
	due     state = iota // to be sent again; it may or may not have arrived
	sending              // inside Publish
	sent                 // Publish returned nil; the broker may still lose it
)

// flight is a run of records that was cut into a frame once and has no receipt
// yet. It keeps its bounds for as long as it lives, or is split into finer
// ones: an old copy that arrives late can then never open a range at the cloud
// that worst did not count.
type flight struct {
	epoch *epoch
	seqs  telemetry.Range
	lane  lane
	state state
	size  int // encoded bytes when last sent
	tries int // times handed to Publish

	send      uint64    // number of the Publish that carries it; parts of one frame share it
	sentAt    time.Time // when it was last handed to Publish
	takenAt   time.Time // when that Publish returned nil: the wait for the receipt begins
	overtaken time.Time // resend from then on, since a later frame has its receipt; zero: not overtaken

	delivered uint64 // the window's count of receipted bytes when it was sent
	limited   bool   // others were in flight: the link was busy all the while
}

// split divides f after seq and returns the upper part, a flight of its own
// with its share of the bytes.
func (f *flight) split(seq uint64) *flight {
	upper := *f
	upper.seqs.First = seq + 1
	upper.size = share(f.size, upper.seqs, f.seqs)
	f.size -= upper.size
	f.seqs.Last = seq
	f.epoch.insert(&upper)
	return &upper
}

// share returns the bytes of part, when whole has size.
func share(size int, part, whole telemetry.Range) int {
	return int(float64(size) * float64(part.Len()) / float64(whole.Len()))
}

// insert puts f into the epoch's flights, which are ascending.
func (e *epoch) insert(f *flight) {
	i, _ := slices.BinarySearchFunc(e.flights, f.seqs.First, func(x *flight, first uint64) int {
		return cmp.Compare(x.seqs.First, first)
	})
	e.flights = slices.Insert(e.flights, i, f)
}

// remove takes f out of the epoch's flights.
func (e *epoch) remove(f *flight) {
	e.flights = slices.DeleteFunc(e.flights, func(x *flight) bool { return x == f })
}

// inFlight returns the bytes that count against the window.
func (u *Uplink) inFlight() (n int) {
	for _, e := range u.epochs.all {
		for _, f := range e.flights {
			if f.state != due {
				n += f.size
			}
		}
	}
	return n
}

// oldest returns the lane's first flight, by epoch and seq, that ok accepts.
func (u *Uplink) oldest(in lane, ok func(*flight) bool) *flight {
	for _, e := range u.epochs.all {
		for _, f := range e.flights {
			if f.lane == in && ok(f) {
				return f
			}
		}
	}
	return nil
}

// waitsLongest returns the flight of the lane that the broker has had longest
// without a receipt, or nil.
func (u *Uplink) waitsLongest(in lane) (first *flight) {
	for _, e := range u.epochs.all {
		for _, f := range e.flights {
			if f.lane == in && f.state == sent && (first == nil || f.takenAt.Before(first.takenAt)) {
				first = f
			}
		}
	}
	return first
}

// deadline returns when the receipt of f is missed. After each miss the wait is
// longer, and always random in part.
func (u *Uplink) deadline(f *flight) time.Time {
	s := &u.lanes[f.lane]
	from := f.takenAt
	if s.last.After(from) {
		from = s.last
	}
	return from.Add(u.win.rto() + s.jitter)
}

// missed returns the lane's flight to send once more because its receipt did
// not come in time. The others wait: its receipt will say what of them arrived.
func (u *Uplink) missed(in lane, now time.Time) *flight {
	f := u.waitsLongest(in)
	if f == nil || now.Before(u.deadline(f)) {
		return nil
	}
	s := &u.lanes[in]
	s.timeouts++
	s.last = now
	s.jitter = backoff(u.rand, u.win.rto(), maxRTO, s.timeouts)
	u.win.shrink(now)
	u.met.timeouts.WithLabelValues(in.String()).Inc()
	return f
}

// expire makes due what was overtaken: a receipt covers a frame that was sent
// later on the same lane, so this one is lost, or late beyond patience.
func (u *Uplink) expire(now time.Time) {
	for _, e := range u.epochs.all {
		for _, f := range e.flights {
			if f.state == sent && !f.overtaken.IsZero() && !now.Before(f.overtaken) {
				f.state, f.overtaken = due, time.Time{}
				u.win.shrink(now)
			}
		}
	}
}
