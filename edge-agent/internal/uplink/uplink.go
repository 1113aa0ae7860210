// Package uplink carries the outbox to the cloud: it cuts signed frames, keeps
// a bounded window of them in flight, and lets the outbox trim what receipts
// cover. Nothing leaves the device on any other word than a signed receipt.
package uplink

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// The topics that frames are published on; the cloud consumes them separately.
const (
	TopicLive    = "up.live"
	TopicBacklog = "up.backlog"
)

// DownTopic returns the topic on which the cloud publishes an agent's receipts.
func DownTopic(agent string) string { return "down." + agent }

// ErrNotEnrolled is returned by HandleReceipt while no cloud's root key is
// known: nothing can be verified, so nothing is believed.
var ErrNotEnrolled = errors.New("not enrolled")

// Reader is what the uplink reads of the outbox. Wait's channel is closed at the
// next commit or trim; it is taken before working.
type Reader interface {
	Epochs() []telemetry.OpenEpoch
	Read(ctx context.Context, e telemetry.Epoch, from uint64, maxRecords, maxBytes int) ([]telemetry.Record, error)
	Wait() <-chan struct{}
}

// Trimmer is what receipts change in the outbox. Each call is durable, or
// harmless to repeat, when it returns.
type Trimmer interface {
	Trim(r telemetry.Receipt) error
	Again(e telemetry.Epoch, r telemetry.Range) error
	Explain(ctx context.Context, l telemetry.Loss) error
}

// Outbox is both; the whole of what the uplink asks of it.
type Outbox interface {
	Reader
	Trimmer
}

// Publisher hands one frame to the pub/sub. It sets its own deadline by size.
// nil means only that the broker said it has the frame: nothing is deleted on
// that. An error may also mean that the frame did arrive. data is not kept.
type Publisher interface {
	Publish(ctx context.Context, topic string, data []byte) error
}

// Options configure an Uplink. Agent, Key, Root, Outbox, Publisher and Now must
// be set; everything else works as zero.
type Options struct {
	Agent     string
	Key       ed25519.PrivateKey
	Root      func() ed25519.PublicKey // nil while not enrolled: nothing is sent
	Outbox    Outbox
	Publisher Publisher
	Now       func() telemetry.Instant // the device's own idea of now, as records carry it
	Trusted   func() time.Time         // the wall clock once it is synchronised, zero before; nil: never. Only then receipt keys can expire.

	MaxWindow    int64         // bytes in flight at most, whatever the cloud allows; 0: 4 MiB
	IdleInterval time.Duration // silence after which an empty frame is sent; 0: 60 s
	Linger       time.Duration // least time between two frames of new readings that fill no frame; 0: 100 ms

	Logger     *slog.Logger          // nil: none
	Registerer prometheus.Registerer // nil: no metrics
}

const (
	linger = 100 * time.Millisecond // a reading may wait that long for company: a tenth of what a header costs otherwise
	idle   = time.Minute
	tick   = time.Second // looks at everything at least that often, so that a lost wake-up costs a second
	poll   = time.Second // how often an agent that may not send looks whether it may

	sendersMax = 4  // Publish calls at a time: hides the broker's round trip; each holds one encoded frame
	mailbox    = 64 // receipts waiting; more are dropped, since the next one says the same
)

// Uplink is the state machine. New makes one; Run runs it, once.
type Uplink struct {
	o    Options
	log  *slog.Logger
	met  *metrics
	rand *rand.Rand
	seal func(telemetry.Header, []telemetry.Record, ed25519.PrivateKey) ([]byte, error)
	open func([]byte, string, ed25519.PublicKey, time.Time) (telemetry.Receipt, error)

	receipts chan telemetry.Receipt
	opened   chan struct{} // a token when the sidecar says that the broker is there again
	results  chan result
	senders  sync.WaitGroup

	mu     sync.Mutex
	status Status // copied by Status

	// Below is the loop's alone.
	epochs  epochs
	win     window
	link    link
	lanes   [lanes]laneState
	cloud   cloudState
	list    listing
	cut     cutter
	mode    Mode
	alarms  alarms
	quiet   quiet
	checked time.Time // when what is gone was last looked for
	pace    pace

	full        bool      // the window kept something back
	need        int       // bytes that must be free before anything new starts, since a large record waits; 0: none does
	more        bool      // the last live frame left something unread: no lingering
	pausedUntil time.Time // after an error of the outbox

	credulous bool // a broker's word is taken for a receipt; only a build with the tag faults sets it
}

// New returns an uplink that does nothing before Run. It returns an error that
// names the option when one is missing or wrong.
func New(o Options) (*Uplink, error) {
	if err := telemetry.ValidateAgent(o.Agent); err != nil {
		return nil, fmt.Errorf("uplink: %w", err)
	}
	switch {
	case len(o.Key) != ed25519.PrivateKeySize:
		return nil, fmt.Errorf("uplink: key of %d bytes, want %d", len(o.Key), ed25519.PrivateKeySize)
	case o.Root == nil, o.Outbox == nil, o.Publisher == nil, o.Now == nil:
		return nil, errors.New("uplink: Root, Outbox, Publisher and Now must be set")
	case o.MaxWindow < 0 || o.IdleInterval < 0 || o.Linger < 0:
		return nil, errors.New("uplink: MaxWindow, IdleInterval and Linger must not be negative")
	}
	o.defaults()
	u := &Uplink{
		o:        o,
		log:      o.Logger,
		met:      newMetrics(o.Registerer),
		rand:     rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
		seal:     telemetry.EncodeFrame,
		open:     telemetry.OpenReceipt,
		receipts: make(chan telemetry.Receipt, mailbox),
		opened:   make(chan struct{}, 1),
		results:  make(chan result, sendersMax),
		win:      newWindow(o.MaxWindow),
		cut:      newCutter(),
		epochs:   epochs{from: 1, dirty: true},
		mode:     Starting,
	}
	fault(u)
	return u, nil
}

func (o *Options) defaults() {
	if o.MaxWindow == 0 {
		o.MaxWindow = defaultMax
	}
	if o.IdleInterval == 0 {
		o.IdleInterval = idle
	}
	if o.Linger == 0 {
		o.Linger = linger
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Trusted == nil {
		o.Trusted = func() time.Time { return time.Time{} }
	}
}

// Run sends until ctx ends, and then returns nil as soon as every Publish has:
// whatever has no receipt stays in the outbox. Nothing that the network or the cloud does makes it return.
func (u *Uplink) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer u.senders.Wait()
	defer cancel()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		commit := u.o.Outbox.Wait() // taken before working: no commit is missed
		next := u.step(ctx)
		u.publish()
		timer.Reset(time.Until(next))
		select {
		case <-ctx.Done():
			return nil
		case <-commit:
			u.epochs.dirty = true
		case <-timer.C:
		case r := <-u.receipts:
			u.receive(ctx, r)
		case <-u.opened:
			u.link.reopen(time.Now())
		case r := <-u.results:
			u.settle(r)
		}
	}
}

// step does all that can be done now and returns when to look again.
func (u *Uplink) step(ctx context.Context) time.Time {
	u.drain(ctx)
	now := time.Now()
	u.refresh(now)
	if u.o.Root() == nil {
		u.setMode(Unenrolled)
		u.measure(ctx, now)
		return now.Add(poll)
	}
	u.expire(now)
	u.full = false
	for ctx.Err() == nil && u.send(ctx, now) {
		u.drain(ctx)
		now = time.Now()
	}
	u.explain(ctx, now)
	u.measure(ctx, now)
	u.setMode(u.modeNow(now))
	return u.wake(now)
}

// drain takes what waits in the mailboxes, so that a step decides on all of it.
func (u *Uplink) drain(ctx context.Context) {
	for {
		select {
		case r := <-u.receipts:
			u.receive(ctx, r)
		case r := <-u.results:
			u.settle(r)
		default:
			return
		}
	}
}
