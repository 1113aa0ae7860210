package uplink

import (
	"math"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

const (
	// working bounds the epochs besides our own that are worked on at a time. With
	// our own and a page in rotation they are as many as one receipt answers for.
	working = telemetry.MaxEpochs - 1 - page

	refreshMin = 50 * time.Millisecond // between two looks at the outbox's list, when the work ran out
	refreshMax = time.Second           // the same, when nothing happens
	perEpoch   = 5 * time.Microsecond  // of pause for each epoch listed: a list of 10 000 is 0.5 MB
)

// epochs is the working set: our own epoch and the oldest others with something
// to send. Those beyond it are only counted.
type epochs struct {
	all   []*epoch // ascending; the last is our own
	from  uint64   // in our own epoch, what is at or above it travels on the live lane
	dirty bool     // our own epoch may have grown since it was last read to its end
	next  telemetry.Epoch

	listed  int       // epochs that the outbox named
	waiting bool      // some that need sending found no room in the set
	pending uint64    // records without a receipt, in all epochs
	at      time.Time // of the last refresh
	due     bool      // refresh as soon as refreshMin allows
}

// own returns the epoch that this process appends to, or nil.
func (s *epochs) own() *epoch {
	if n := len(s.all); n > 0 && s.all[n-1].own {
		return s.all[n-1]
	}
	return nil
}

// find returns the epoch of the working set, or nil.
func (s *epochs) find(id telemetry.Epoch) *epoch {
	if i, ok := s.search(id); ok {
		return s.all[i]
	}
	return nil
}

func (s *epochs) search(id telemetry.Epoch) (int, bool) {
	return slices.BinarySearchFunc(s.all, id, func(e *epoch, id telemetry.Epoch) int { return e.Epoch.Compare(id) })
}

// ensure returns the epoch, put into the working set if it was not there.
func (s *epochs) ensure(o telemetry.OpenEpoch) *epoch {
	i, ok := s.search(o.Epoch)
	if !ok {
		s.all = slices.Insert(s.all, i, &epoch{OpenEpoch: o, mark: o.Trimmed})
	}
	return s.all[i]
}

// refreshAt returns when the outbox's list is to be read again.
func (s *epochs) refreshAt() time.Time {
	wait := refreshMax
	if s.due {
		wait = refreshMin
	}
	return s.at.Add(wait + time.Duration(s.listed)*perEpoch)
}

// refresh brings the working set up to the outbox's list, when it is time.
func (u *Uplink) refresh(now time.Time) {
	if !u.epochs.at.IsZero() && now.Before(u.epochs.refreshAt()) {
		return
	}
	u.look(now)
}

// look reads the outbox's list.
func (u *Uplink) look(now time.Time) {
	list := u.o.Outbox.Epochs()
	u.epochs.take(list, now)
	u.list.take(list)
}

// take merges the outbox's list, which is ascending and ends with our own epoch.
func (s *epochs) take(list []telemetry.OpenEpoch, now time.Time) {
	s.at, s.due, s.listed, s.pending = now, false, len(list), 0
	s.update(list, now)
	s.load(list, now)
}

// update brings the epochs of the set up to date and drops those that ended.
func (s *epochs) update(list []telemetry.OpenEpoch, now time.Time) {
	for _, e := range s.all {
		i, ok := slices.BinarySearchFunc(list, e.Epoch, func(o telemetry.OpenEpoch, id telemetry.Epoch) int {
			return o.Epoch.Compare(id)
		})
		if ok {
			e.update(list[i])
		} else if !e.own {
			e.ended = true
		}
	}
	for i, o := range list {
		s.pending += o.Durable - min(o.Trimmed, o.Durable)
		if i == len(list)-1 {
			e := s.ensure(o)
			e.own = true
		}
	}
	s.all = slices.DeleteFunc(s.all, func(e *epoch) bool {
		over := e.ended || e.Trimmed >= e.Durable
		return over && !e.own && len(e.flights) == 0 && (len(e.again) == 0 || e.resting(now))
	})
}

// update takes what the outbox says. What it trimmed counts as held only until
// a receipt speaks: a cloud that went back holds less.
func (e *epoch) update(o telemetry.OpenEpoch) {
	o.Durable = max(o.Durable, e.Durable)
	e.OpenEpoch = o
	if !e.known {
		e.mark = max(e.mark, o.Trimmed)
	}
}

// load fills the free places of the set with the epochs that follow the one
// loaded last. Epochs with nothing to do make room for them, since thousands
// may wait for a loss record that is only in the next one.
func (s *epochs) load(list []telemetry.OpenEpoch, now time.Time) {
	s.waiting = false
	if len(list) < 2 {
		return
	}
	others := list[:len(list)-1]
	start, _ := slices.BinarySearchFunc(others, s.next, func(o telemetry.OpenEpoch, id telemetry.Epoch) int {
		return o.Epoch.Compare(id)
	})
	evicted := false
	for i := range others {
		o := others[(start+i)%len(others)]
		if o.Trimmed >= o.Durable || s.find(o.Epoch) != nil {
			continue
		}
		if len(s.all) > working && !evicted {
			evicted = true
			s.all = slices.DeleteFunc(s.all, func(e *epoch) bool { return !e.own && e.resting(now) })
		}
		if len(s.all) > working {
			s.waiting, s.next = true, o.Epoch
			return
		}
		s.ensure(o)
	}
}

// resting reports whether nothing of the epoch can be sent or is in flight.
func (e *epoch) resting(now time.Time) bool {
	if len(e.flights) > 0 || !e.known && e.askedAt.IsZero() {
		return false
	}
	_, ok := e.gap(1, e.Durable, now)
	return !ok
}

// top returns the highest seq worth looking for: our own epoch grows while we look.
func (s *epochs) top(e *epoch) uint64 {
	if e.own && s.dirty {
		return math.MaxUint64
	}
	return e.Durable
}
