package store

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/ledger"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Totals are sums over the epochs of an agent.
type Totals struct {
	Held        uint64
	Expired     uint64
	Quarantined uint64
	Lost        uint64
	OnDevice    uint64
	Missing     uint64 // below the device's lowest and not explained yet
}

// Agent is one device as the cloud knows it.
type Agent struct {
	ID         int64
	Name       string
	Key        ed25519.PublicKey
	EnrolledAt time.Time
	RevokedAt  time.Time // zero: it is not
	FirstSeen  time.Time // zero before its first frame
	LastSeen   time.Time
	Revision   uint64

	Totals
	Readings    uint64 // rows ever inserted
	Redelivered uint64 // of them with the DUP flag: a publisher sent again
	OpenEpochs  uint64 // as the device last said

	// Confirmed is the corrected time, in Unix nanoseconds, of the last reading
	// before the first that is still on the device: everything recorded until
	// then is here or explained. 0 when there is none; only from Agent and Agents.
	Confirmed int64

	Lead        telemetry.Epoch // the epoch that advanced last
	LeadMark    uint64          // its watermark
	Sampled     time.Time       // when the backlog was last noted
	LeadTurns   uint64          // how often an older epoch advanced after a newer one
	Unexplained uint64          // seqs that are a hole for good
	Alarms      []Alarm
}

// Fleet is all agents together.
type Fleet struct {
	Agents      uint64
	Revoked     uint64 // of them
	Totals             // over all agents
	Unexplained uint64 // seqs that are a hole for good
	// Alarms is how many stand, by kind: of each, one an agent and epoch.
	Alarms map[string]uint64
}

// MaxHoles bounds the agents whose holes one look at the fleet counts.
const MaxHoles = 1000

// AddHoles adds the holes of an agent, which are all the alarms that it has.
func (f *Fleet) AddHoles(a *Agent) {
	f.Unexplained += a.Unexplained
	f.Alarms[AlarmHole] += uint64(len(a.Alarms))
}

// Sample is an agent's backlog at one time.
type Sample struct {
	At       time.Time
	OnDevice uint64
	Held     uint64
}

const (
	// SampleEvery is how often the backlog of an agent that is heard is noted.
	SampleEvery = time.Minute
	// SamplesKept is for how long: a month and what a person is late.
	SamplesKept = 35 * 24 * time.Hour
)

// The kinds of alarm.
const (
	AlarmHole     = "hole"      // seqs are gone from the device and nothing says why
	AlarmClone    = "clone"     // two epochs of one agent advance at the same time
	AlarmWentBack = "went-back" // the cloud holds more of an epoch than its successor knows, or two epochs followed one
	AlarmClaims   = "claims"    // the device said something that cannot be
	AlarmRestored = "restored"  // the device was told that seqs are held, and they are not
	AlarmReplaced = "replaced"  // the device began anew and forgot epochs that were still on it
)

// AlarmKinds are all of them.
var AlarmKinds = []string{AlarmHole, AlarmClone, AlarmWentBack, AlarmClaims, AlarmRestored, AlarmReplaced}

// Alarm is something that a person should look at. One of a kind is kept for
// each agent and epoch.
type Alarm struct {
	Kind   string
	Epoch  telemetry.Epoch
	Detail string // a sentence
	First  time.Time
	Last   time.Time
	Count  uint64
}

// MaxAlarms bounds the alarms of a kind that an agent is listed with.
const MaxAlarms = 100

// AddHole adds the alarm that an epoch is, when what misses of it is a hole.
func (a *Agent) AddHole(e *Epoch) {
	missing := e.Ledger.Missing()
	if !e.Hole {
		return
	}
	n := missing.Count()
	a.Unexplained += n
	a.Alarms = append(a.Alarms, Alarm{
		Kind: AlarmHole, Epoch: e.Epoch, First: e.Ledger.Device.Seen, Last: e.Ledger.Device.Seen, Count: 1,
		Detail: fmt.Sprintf("%d records of epoch %s, the first of them seq %d, are gone from the device and nothing says why", n, e.Epoch, missing[0].First),
	})
}

// Epoch is one ledger as listed.
type Epoch struct {
	Epoch      telemetry.Epoch
	Ledger     *ledger.Epoch
	Hole       bool // what misses is a hole for good
	ReceivedAt time.Time
}

// Reading is one row.
type Reading struct {
	Agent     string
	Epoch     telemetry.Epoch
	Seq       uint64
	Topic     string
	QoS       uint8
	Dup       bool
	Retained  bool
	Payload   []byte
	Recorded  int64 // Unix nanoseconds by the device's clock
	Corrected int64 // Unix nanoseconds, best known true time
	Received  int64 // Unix nanoseconds by the cloud's clock
}

// Query selects readings. Order is by agent name, epoch and seq; Desc turns
// epoch and seq round within each agent.
type Query struct {
	Agent  string          // exact; empty: all
	Epoch  telemetry.Epoch // only this one, of the one Agent; zero: all
	Topic  string          // MQTT topic filter; empty: all
	From   int64           // corrected time, Unix nanoseconds, inclusive; 0: no bound
	To     int64           // exclusive; 0: no bound
	Limit  int
	Cursor string
	Desc   bool
	Allow  func(agent string) bool // nil: all
}

// Page is what a query found. Next is empty at the end. A page may be shorter
// than the limit, even empty, and still have a Next: one call looks at a bounded
// number of rows.
type Page struct {
	Readings []Reading
	Next     string
}

// Topic is one topic of an agent.
type Topic struct {
	ID   int64
	Name string
	Last int64 // corrected time of the newest, Unix nanoseconds; 0 when none is left
}

// Token lets an agent enrol. Only the hash of its secret is kept.
type Token struct {
	ID         string
	SecretHash [32]byte
	Agent      string // the only agent it is for; empty: any, or any with Prefix
	Prefix     string // of the agent ids a fleet token is for
	Uses       int    // how many keys it may enrol
	Used       int
	Expires    time.Time
	Created    time.Time
}

// SampleBytes is how much of a rejected event is kept: its header and the
// beginning of its body tell whose fault it is.
const SampleBytes = 4096

// Rejected is an event that nobody's signature vouches for.
type Rejected struct {
	Agent    string // as claimed; may be anything, even empty
	Why      string
	Raw      []byte // cut to a sample by the store
	Received time.Time
}

// Quarantined is a frame kept raw, or a sample of a rejected event.
type Quarantined struct {
	ID       int64
	Agent    string
	Trusted  bool // the signature was good, and the seqs count as held
	Epoch    telemetry.Epoch
	Seqs     telemetry.Range
	Why      string
	Size     int
	Received time.Time
	Raw      []byte // only in QuarantinedFrame
}

// Cursor is a place in the order of readings: right after the row named, or
// right before it when the query is Desc.
type Cursor struct {
	Agent string `json:"a"`
	Epoch string `json:"e"`
	Seq   uint64 `json:"s"`
}

// String returns the cursor as an opaque word for a URL.
func (c Cursor) String() string {
	b, err := json.Marshal(c)
	if err != nil {
		panic("BUG: cursor: " + err.Error())
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// ParseCursor reads what String returned; it returns ErrCursor otherwise.
func ParseCursor(s string) (c Cursor, e telemetry.Epoch, err error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return c, e, fmt.Errorf("%w: %w", ErrCursor, err)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, e, fmt.Errorf("%w: %w", ErrCursor, err)
	}
	if c.Epoch == "" {
		return c, e, nil
	}
	if e, err = telemetry.ParseEpoch(c.Epoch); err != nil {
		return c, e, fmt.Errorf("%w: %w", ErrCursor, err)
	}
	return c, e, nil
}

// MatchTopic reports whether an MQTT topic filter matches a topic: + stands for
// one level, # for the rest, and neither matches a topic that begins with $ at
// the first level.
func MatchTopic(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && filter != "" && (filter[0] == '+' || filter[0] == '#') {
		return false
	}
	for {
		f, frest, fmore := strings.Cut(filter, "/")
		if f == "#" {
			return true
		}
		t, trest, tmore := strings.Cut(topic, "/")
		if f != "+" && f != t {
			return false
		}
		switch {
		case !fmore && !tmore:
			return true
		case fmore && !tmore:
			return frest == "#" // a/# matches a too
		case !fmore:
			return false
		}
		filter, topic = frest, trest
	}
}

// ValidFilter reports whether s is an MQTT topic filter.
func ValidFilter(s string) bool {
	if s == "" || len(s) > telemetry.MaxTopic {
		return false
	}
	levels := strings.Split(s, "/")
	for i, l := range levels {
		if strings.Contains(l, "#") && (l != "#" || i != len(levels)-1) {
			return false
		}
		if strings.Contains(l, "+") && l != "+" {
			return false
		}
	}
	return true
}

// Check returns ErrToken unless the token may enrol the agent at that time.
// again says that it enrolled the same agent with the same key before; revoked
// is when the agent was revoked, zero when it is not. A token that lies on a
// revoked device must not let it in again: only a newer one does.
func (t *Token) Check(agent string, again bool, revoked, at time.Time) error {
	switch {
	case at.After(t.Expires):
		return fmt.Errorf("%w: expired at %s", ErrToken, t.Expires.Format(time.RFC3339))
	case t.Agent != "" && t.Agent != agent:
		return fmt.Errorf("%w: it is for agent %s", ErrToken, t.Agent)
	case !strings.HasPrefix(agent, t.Prefix):
		return fmt.Errorf("%w: it is for agents whose id begins with %s", ErrToken, t.Prefix)
	case !revoked.IsZero() && !t.Created.After(revoked):
		return fmt.Errorf("%w: it was made before the agent was revoked", ErrToken)
	case !again && t.Used >= t.Uses:
		return fmt.Errorf("%w: used up", ErrToken)
	}
	return nil
}

// Flags of a reading, as databases keep them in one small integer: bits 0 and 1
// are the QoS.
const (
	flagDup      = 1 << 2
	flagRetained = 1 << 3
)

// Flags packs QoS, DUP and RETAIN into one small integer.
func Flags(r *telemetry.Reading) int64 {
	f := int64(r.QoS & 3)
	if r.Dup {
		f |= flagDup
	}
	if r.Retained {
		f |= flagRetained
	}
	return f
}

// SetFlags unpacks what Flags packed.
func (r *Reading) SetFlags(f int64) {
	r.QoS, r.Dup, r.Retained = uint8(f&3), f&flagDup != 0, f&flagRetained != 0
}
