package uplink

import (
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Mode says what the uplink is doing, in one word.
type Mode string

// The modes.
const (
	Starting   Mode = "starting"   // nothing was tried yet
	Unenrolled Mode = "unenrolled" // no cloud is known: nothing is sent
	Revoked    Mode = "revoked"    // the cloud takes nothing more from this agent
	Offline    Mode = "offline"    // the last publish failed
	Unanswered Mode = "unanswered" // frames leave, but no receipts come
	Held       Mode = "held"       // the cloud asked to wait
	CatchingUp Mode = "catching up"
	Current    Mode = "current" // nothing is older than what is in flight
)

// Status is what the status page shows of the uplink.
type Status struct {
	Mode             Mode
	Error            string        // of the last publish, while Offline
	RetryAt          time.Time     // when the next publish may start; zero: now
	OldestUnsentAge  time.Duration // of the oldest record that was never sent; 0: none
	Confirmed        Position      // everything before and at it is held by the cloud or explained
	Unconfirmed      uint64        // records without a receipt, in all epochs
	CaughtUpIn       time.Duration // at the present pace; 0: is; negative: unknown or never
	InFlight         int           // bytes
	Window           int64         // bytes
	CloudWindow      int64         // bytes; negative: no receipt yet
	RoundTrip        time.Duration // from Publish to the receipt, smoothed; 0: none yet
	BytesPerSecond   float64       // that the link carries, by receipts; 0: not known
	RecordsPerSecond float64       // confirmed lately
	LastPublish      time.Time     // that succeeded; zero: none
	LastReceipt      time.Time     // zero: none
	Cloud            string        // id, from the last receipt
	Revision         uint64
	OpenEpochs       int
	Alarms           []Alarm
}

// Position is a place in the outbox's log.
type Position struct {
	Epoch telemetry.Epoch
	Seq   uint64
}

// Alarm is something that should never be.
type Alarm struct {
	Kind  string // one of the Alarm constants
	Text  string
	Since time.Time
	Count uint64 // how often it was raised
}

// The kinds of alarm. Their number is the bound on what is kept.
const (
	AlarmOutbox  = "outbox"  // reading or trimming failed; it is retried
	AlarmReceipt = "receipt" // a signed receipt speaks of what the device never made
	AlarmRefused = "refused" // the cloud refuses a record that it got by itself
	AlarmHole    = "hole"    // the cloud lacks records that the device has not and has no reason for
	AlarmRevoked = "revoked" // the cloud takes nothing more
)

// alarms are at most one of each kind.
type alarms []Alarm

func (a *alarms) raise(kind, text string, now time.Time) {
	for i := range *a {
		if x := &(*a)[i]; x.Kind == kind {
			x.Text, x.Count = text, x.Count+1
			return
		}
	}
	*a = append(*a, Alarm{Kind: kind, Text: text, Since: now, Count: 1})
}

func (a *alarms) clear(kind string) {
	var keep alarms
	for _, x := range *a {
		if x.Kind != kind {
			keep = append(keep, x)
		}
	}
	*a = keep
}

// Status returns how things stand. It may be called from any goroutine.
func (u *Uplink) Status() Status {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.status
}
