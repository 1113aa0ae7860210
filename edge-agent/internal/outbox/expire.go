package outbox

import (
	"errors"
	"path/filepath"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

const expireEvery = time.Minute

// expire gives up the segments whose newest record is older than MaxAge. An age is
// time for which this device ran, or time between two moments at which its clock
// was synchronised, whichever is more: a clock that jumps from 1970 makes nothing old.
func (o *Outbox) expire() error {
	at := o.opts.Now()
	if o.opts.MaxAge <= 0 || at.Boot < o.expireAt {
		return nil
	}
	o.expireAt = at.Boot + min(expireEvery, o.opts.MaxAge/8+1)
	if err := o.rollByAge(at); err != nil {
		return err
	}
	for _, f := range o.sealedFiles() {
		age, readings, err := o.age(f, at)
		if err != nil {
			if isDamage(err) {
				o.condemn(f, err)
				continue
			}
			return nil // not to be read just now: next time
		}
		if readings == 0 {
			continue
		}
		if age <= o.opts.MaxAge {
			return nil // the rest is younger
		}
		if err := o.giveUp(f, telemetry.ReasonExpired); err != nil {
			if errors.Is(err, errNoRoom) || errors.Is(err, errNeeded) {
				return nil
			}
			return err
		}
	}
	return nil
}

// rollByAge ends a segment that is filled so slowly that its first record would
// be far too old by the time its last may go.
func (o *Outbox) rollByAge(at telemetry.Instant) error {
	if o.live == nil || o.live.live.head.Readings == 0 || at.Boot-o.live.live.head.First.Boot < o.opts.MaxAge/8 {
		return nil
	}
	if err := o.roll(false); !errors.Is(err, errNoRoom) {
		return err
	}
	return nil
}

func (o *Outbox) sealedFiles() []*segment {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []*segment
	for _, f := range o.files {
		if f.live == nil && f.bad == nil && !f.done {
			out = append(out, f)
		}
	}
	return out
}

// age returns how old the youngest record of a file is at least, and how many
// readings the file holds.
func (o *Outbox) age(f *segment, at telemetry.Instant) (youngest time.Duration, readings uint64, err error) {
	var heads []head
	err = withSealed(filepath.Join(o.opts.Dir, f.name), f.pack, func(rd *reader) (err error) {
		heads, err = rd.heads()
		return err
	})
	for i, h := range heads {
		readings += h.Readings
		age := o.ranBase + at.Boot - h.Ran
		if o.synced && h.Synced != 0 {
			age = max(age, time.Duration(at.Wall-h.Synced))
		}
		if i == 0 || age < youngest {
			youngest = age
		}
	}
	return youngest, readings, err
}
