// Package store is what a cloud database has to do for Holdfast: take a frame
// in one transaction, exactly once whatever the order and repetition, and answer
// what it holds. Packages sqlite and postgres do it; package storetest holds
// both to the same behaviour.
package store

import (
	"context"
	"crypto/ed25519"
	"errors"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

var (
	// ErrNotFound is returned for an agent, a token or a quarantined frame that
	// the store does not know.
	ErrNotFound = errors.New("not found")

	// ErrUnavailable is returned when the database cannot be reached, is full or
	// is shutting down. Nothing was stored; the same call may succeed later.
	ErrUnavailable = errors.New("store unavailable")

	// ErrUnstorable is returned by Commit for a frame that can never be stored
	// as records, such as one with a seq above ledger.MaxSeq. Nothing was stored.
	ErrUnstorable = errors.New("frame cannot be stored")

	// ErrRevoked is returned by Commit for an agent that Revoke shut out. Nothing
	// was stored, and will not be before the agent is allowed again.
	ErrRevoked = errors.New("agent is revoked")

	// ErrToken is returned by Enrol for a token that is unknown, expired, used
	// up, not meant for the agent, or older than the agent's revocation.
	ErrToken = errors.New("token not valid")

	// ErrCursor is returned by Readings for a cursor it did not make.
	ErrCursor = errors.New("cursor not valid")
)

// Store is everything a database does. Packages that use it declare the few
// methods that they need.
type Store interface {
	// Commit stores the frame and its ledger in one transaction and returns
	// after it is durable. A frame that is there already changes nothing but
	// what the device reports. The agent must exist and not be revoked.
	Commit(ctx context.Context, f Frame) (Result, error)

	// Receipt returns the ledgers of the epochs as they are now, in the order
	// asked for, and the agent's revision; epochs not known are left out.
	Receipt(ctx context.Context, agent string, epochs []telemetry.Epoch) (Receipt, error)

	// Agent returns one agent, ErrNotFound when it was never enrolled.
	Agent(ctx context.Context, name string) (Agent, error)
	// Agents returns up to limit agents after the name given, ascending.
	Agents(ctx context.Context, after string, limit int) ([]Agent, error)
	// Fleet sums up all agents and the alarms that stand.
	Fleet(ctx context.Context) (Fleet, error)
	// Epochs returns up to limit ledgers of an agent below the epoch given,
	// newest first; the zero Epoch begins at the newest.
	Epochs(ctx context.Context, agent string, below telemetry.Epoch, limit int) ([]Epoch, error)
	// Readings returns one page.
	Readings(ctx context.Context, q Query) (Page, error)
	// Values calls f with the corrected time and the payload of every reading of
	// one topic in [from, to), ascending by time, until f returns an error, which
	// Values returns. The payload is only good until f returns.
	Values(ctx context.Context, agent, topic string, from, to int64, f func(at int64, payload []byte) error) error
	// Backlog returns the samples of an agent in [from, to), ascending, of too
	// many the newest.
	Backlog(ctx context.Context, agent string, from, to time.Time, limit int) ([]Sample, error)
	// Newest returns up to limit epochs that got readings, those heard of last
	// first, each with its highest seq.
	Newest(ctx context.Context, limit int) ([]EpochRef, error)
	// Topics returns up to limit topics of an agent after the one given.
	Topics(ctx context.Context, agent, after string, limit int) ([]Topic, error)

	// Acknowledge removes the alarms that frames of the agent raised so far; a
	// hole stays, since it follows from the ledger.
	Acknowledge(ctx context.Context, agent string) error

	// Reject keeps a bounded sample of an event that nobody's signature vouches
	// for, and counts it.
	Reject(ctx context.Context, r Rejected) error
	// Quarantine returns up to limit quarantined frames and rejected events
	// with an id below the one given (0: the newest), newest first.
	Quarantine(ctx context.Context, below int64, limit int) ([]Quarantined, error)
	// QuarantinedFrame returns one with its raw bytes.
	QuarantinedFrame(ctx context.Context, id int64) (Quarantined, error)

	CreateToken(ctx context.Context, t Token) error
	Token(ctx context.Context, id string) (Token, error)
	// Enrol redeems a token: it makes the agent or gives it a new key. A token
	// used up is good again for the key that used it. One made after the agent
	// was revoked allows it again. Returns ErrToken.
	Enrol(ctx context.Context, tokenID, agent string, key ed25519.PublicKey, at time.Time) error
	// Revoke shuts an agent out from at on: Commit takes nothing more from it,
	// and its receipts say so. The zero time allows it again. What it sent
	// before stays.
	Revoke(ctx context.Context, agent string, at time.Time) error

	// Maintain does what need not be done at once: it corrects times that were
	// stored before their clock was known, and removes what is older than the
	// store's retention: readings, losses, anchors and quarantined frames, which
	// the ledger then calls expired. It works in small transactions, and may be
	// called at any time by any replica.
	Maintain(ctx context.Context) error

	// Notes returns what an operator should know of the database, such as a
	// standby that may lack what was committed: a sentence each, mostly none.
	Notes(ctx context.Context) ([]string, error)

	// Ping returns nil when the store can commit.
	Ping(ctx context.Context) error
	Close() error
}

// Frame is a verified frame, opened.
type Frame struct {
	Agent       string
	Epoch       telemetry.Epoch
	First, Last uint64             // both 0: an empty frame
	Records     []telemetry.Record // First..Last, or nil for a quarantined frame
	Open        []telemetry.OpenEpoch
	OpenTotal   uint64 // how many epochs are open on the device; 0 when it did not say
	Sent        telemetry.Instant
	Received    time.Time

	// Raw and Why are set for a frame that is to be quarantined: its signature
	// is good, and its seqs count as held.
	Raw []byte
	Why string
}

// Range returns the seqs that the frame claims.
func (f *Frame) Range() telemetry.Range {
	if f.Last == 0 {
		return telemetry.Range{First: 1}
	}
	return telemetry.Range{First: f.First, Last: f.Last}
}

// Result says what a commit did.
type Result struct {
	Revision  uint64
	Records   int               // of the frame that were new
	Duplicate uint64            // seqs of the frame that were there already
	Alarms    []Alarm           // raised by this frame, whether or not they stood before
	Epochs    []telemetry.Epoch // whose ledger changed
	Fresh     []telemetry.Range // of the frame's epoch that were new
}

// Receipt is what a receipt to an agent is made of.
type Receipt struct {
	Revision uint64
	Epochs   []Epoch
	Revoked  bool
}
