package outbox

import (
	"context"
	"maps"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// counters count since Open. Outbox.mu guards them.
type counters struct {
	appended         uint64 // records
	readings         uint64
	appendedBytes    uint64 // of readings' topics and payloads
	lost             map[telemetry.Reason]uint64
	foreign          uint64
	neverMade        uint64
	unknownEpochs    uint64
	quarantined      int
	quarantinedBytes int64
	rate             rate
}

func (c *counters) count(recs []telemetry.Record) {
	c.appended += uint64(len(recs))
	readings, size := 0, 0
	for i := range recs {
		if r := recs[i].Reading; r != nil {
			readings, size = readings+1, size+len(r.Topic)+len(r.Payload)
		}
	}
	if readings > 0 {
		c.readings, c.appendedBytes = c.readings+uint64(readings), c.appendedBytes+uint64(size)
		c.rate.add(time.Now(), float64(size+readings*recordOverhead))
	}
}

// recordOverhead is about what a record takes on the disk beyond its topic and payload.
const recordOverhead = 40

// rate is a mean of bytes a second that forgets over about ten minutes.
type rate struct {
	since time.Time
	last  time.Time
	bytes float64
}

const rateWindow = 10 * time.Minute

func (r *rate) add(t time.Time, bytes float64) {
	if r.since.IsZero() {
		r.since, r.last = t, t
	}
	if d := t.Sub(r.last); d > time.Second {
		r.bytes *= 1 - min(1, d.Seconds()/rateWindow.Seconds())
		r.last = t
	}
	r.bytes += bytes
}

// perSecond returns 0 until something was counted for a second.
func (r *rate) perSecond(t time.Time) float64 {
	span := min(t.Sub(r.since), rateWindow).Seconds()
	if r.since.IsZero() || span < 1 {
		return 0
	}
	return r.bytes * (1 - min(1, t.Sub(r.last).Seconds()/rateWindow.Seconds())) / span
}

// never is what is called never: a time to full of years says nothing.
const never = 10 * 365 * 24 * time.Hour

// reach returns how long so many bytes take at the present rate, and -1 when
// nothing comes in, or next to nothing.
func (r *rate) reach(t time.Time, bytes int64) time.Duration {
	perSecond := r.perSecond(t)
	if seconds := float64(max(bytes, 0)) / perSecond; perSecond > 0 && seconds < never.Seconds() {
		return time.Duration(seconds * float64(time.Second))
	}
	return -1
}

// Stats is what Outbox.Stats returns.
type Stats struct {
	Epoch   telemetry.Epoch // the current one
	Durable uint64          // its last seq on the disk

	Epochs      int               // with records on the device
	Segments    int               // files
	Records     uint64            // not receipted
	Queued      int               // drafts waiting for a commit
	QueuedBytes int64             //
	Bytes       int64             // the folder takes on the disk, reservations included, quarantined files not
	Unreceipted int64             // of Bytes, what no receipt covers; the present segment as far as it is used
	MaxBytes    int64             // the limit
	FreeBytes   int64             // on the file system; -1 when unknown
	Oldest      telemetry.Instant // when the oldest record not receipted was made; zero when there is none
	OldestEpoch telemetry.Epoch   // its epoch
	TimeToFull  time.Duration     // at the present rate; negative when nothing comes in, or so little that it lasts for years
	FullSince   time.Time         // zero unless full now

	Quarantined      int // files, in the folder
	QuarantinedBytes int64

	// Since Open.
	Appended      uint64 // records
	Readings      uint64
	AppendedBytes uint64                      // of topics and payloads
	Lost          map[telemetry.Reason]uint64 // readings given up, by reason
	Foreign       uint64                      // receipts for another agent
	NeverMade     uint64                      // receipts and requests for seqs this device never made
	UnknownEpochs uint64                      // receipts of epochs that are not on the device
}

// Stats returns a picture of the outbox. It reads one record from the disk.
func (o *Outbox) Stats() Stats {
	s, oldest, seq := o.count()
	s.Queued, s.QueuedBytes = o.queue.depth()
	s.FreeBytes = -1
	var fs unix.Statfs_t
	if unix.Statfs(o.opts.Dir, &fs) == nil {
		s.FreeBytes = int64(fs.Bavail) * int64(fs.Bsize)
	}
	if oldest != (telemetry.Epoch{}) {
		if recs, err := o.Read(context.Background(), oldest, seq, 1, 1); err == nil && len(recs) > 0 {
			s.Oldest, s.OldestEpoch = recs[0].At, oldest
		}
	}
	return s
}

// count returns what memory knows, and where the oldest unreceipted record is.
func (o *Outbox) count() (s Stats, oldest telemetry.Epoch, seq uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := &o.stat
	s = Stats{
		Epoch: o.current.id, Durable: o.current.last, Segments: len(o.files), MaxBytes: o.opts.MaxBytes, Bytes: o.totalLocked(),
		FullSince: o.fullSince, Quarantined: c.quarantined, QuarantinedBytes: c.quarantinedBytes,
		Appended: c.appended, Readings: c.readings, AppendedBytes: c.appendedBytes, Lost: maps.Clone(c.lost),
		Foreign: c.foreign, NeverMade: c.neverMade, UnknownEpochs: c.unknownEpochs,
	}
	for _, e := range o.order {
		if len(e.runs) == 0 {
			continue
		}
		s.Epochs++
		given := e.given()
		for _, miss := range given.Missing(telemetry.Range{First: 1, Last: e.last}) {
			for _, there := range e.present().Within(miss) {
				if s.Records == 0 {
					oldest, seq = e.id, there.First
				}
				s.Records += there.Len()
			}
		}
	}
	live := int64(0)
	for _, f := range o.files {
		switch {
		case f.done:
		case f.live != nil:
			live = f.live.used
			s.Unreceipted += live
		default:
			s.Unreceipted += f.size
		}
	}
	if s.TimeToFull = c.rate.reach(time.Now(), s.MaxBytes-s.Unreceipted); !s.FullSince.IsZero() {
		s.TimeToFull = 0
	}
	return s, oldest, seq
}
