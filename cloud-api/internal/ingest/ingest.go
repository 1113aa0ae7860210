// Package ingest takes frames from the broker into the store. What it answers
// with nil is committed, or will never be; whatever may succeed later is an
// error, and the frame is delivered again.
package ingest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// MaxEvent bounds one frame as it comes.
const MaxEvent = telemetry.MaxFrame

const (
	// keyAge is how long a known key is used without asking the store: a device
	// enrolled anew through another replica is heard after at most this time.
	keyAge = 5 * time.Second
	// doubtGap is how soon the store is asked again when a signature is not by a
	// known key: a flood of forged frames must not become a flood of questions. A
	// device with a new key is heard at once, or beside such a flood after this time.
	doubtGap = time.Second
	// maxKeys bounds the keys remembered.
	maxKeys = 20_000
	// sampleGap is the least time between two kept samples of rejected events,
	// so that a flood of them cannot become a flood of writes.
	sampleGap = 100 * time.Millisecond
)

// Store is what ingest needs of a database.
type Store interface {
	Agent(ctx context.Context, name string) (store.Agent, error)
	Commit(ctx context.Context, f store.Frame) (store.Result, error)
	Reject(ctx context.Context, r store.Rejected) error
}

// Receipts is told what to answer to an agent.
type Receipts interface {
	Due(agent string, epochs []telemetry.Epoch, rejected []telemetry.Rejection)
}

// Options is what a Service needs. Feed may be nil.
type Options struct {
	Store      Store
	Receipts   Receipts
	Feed       func(f *store.Frame, r store.Result) // told of every commit that stored something
	InHand     int                                  // frames worked on at the same time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Service takes frames. It is safe for concurrent use.
type Service struct {
	opt     Options
	metrics *metrics
	slots   chan struct{}
	waiting atomic.Int64

	mu      sync.Mutex
	keys    map[string]knownKey
	sampled time.Time
}

// knownKey is what was last read of an agent.
type knownKey struct {
	key     ed25519.PublicKey
	revoked bool
	at      time.Time
	doubted time.Time // when a signature was last not by it
}

// New returns a Service.
func New(o Options) *Service {
	return &Service{opt: o, metrics: newMetrics(o.Registerer), slots: make(chan struct{}, max(o.InHand, 1)), keys: map[string]knownKey{}}
}

// Load is how busy the service is: 0 idle, 1 every slot taken, more when frames
// wait for a slot.
func (s *Service) Load() float64 {
	return (float64(len(s.slots)) + float64(s.waiting.Load())) / float64(cap(s.slots))
}

// Take takes one frame. It keeps nothing of raw after it returned. nil means
// that the frame is committed, was committed before, or is nobody's; an error
// means that nothing was stored and that it has to be delivered again.
func (s *Service) Take(ctx context.Context, raw []byte) error {
	s.waiting.Add(1)
	select {
	case s.slots <- struct{}{}:
		s.waiting.Add(-1)
	case <-ctx.Done():
		s.waiting.Add(-1)
		return fmt.Errorf("wait for a slot: %w", ctx.Err())
	}
	defer func() { <-s.slots }()
	start := time.Now()
	result, err := s.take(ctx, raw, start)
	s.metrics.frame(result, time.Since(start), len(raw))
	return err
}

// The results of a frame, as the metrics name them.
const (
	resultStored      = "stored"
	resultDuplicate   = "duplicate"
	resultEmpty       = "empty"
	resultQuarantined = "quarantined"
	resultRejected    = "rejected"
	resultRevoked     = "revoked"
	resultRetry       = "retry"
)

func (s *Service) take(ctx context.Context, raw []byte, at time.Time) (string, error) {
	f, err := telemetry.ParseFrame(raw)
	if err != nil {
		return s.reject(ctx, "", err.Error(), raw, at)
	}
	agent := f.Header.Agent
	if err := s.verify(ctx, f, at); errors.Is(err, store.ErrNotFound) {
		return s.reject(ctx, agent, "no agent of this name is enrolled", raw, at)
	} else if errors.Is(err, telemetry.ErrSignature) {
		return s.reject(ctx, agent, "the signature is not by the agent's key", raw, at)
	} else if errors.Is(err, store.ErrRevoked) {
		return s.refuse(ctx, f, at), nil
	} else if err != nil {
		return resultRetry, err
	}
	recs, err := records(f)
	if err != nil {
		return s.quarantine(ctx, f, err, at)
	}
	frame := frameOf(f, at)
	frame.Records = recs
	res, err := s.commit(ctx, frame)
	switch {
	case errors.Is(err, store.ErrRevoked):
		return s.refuse(ctx, f, at), nil
	case errors.Is(err, store.ErrUnavailable), ctx.Err() != nil && err != nil:
		return resultRetry, err
	case err != nil:
		return s.quarantine(ctx, f, err, at)
	}
	return s.answer(&frame, res), nil
}

// verify checks the signature with the key remembered, and when that fails with
// the one in the store: the agent may have enrolled anew. It returns
// store.ErrRevoked for a good signature that counts no more.
func (s *Service) verify(ctx context.Context, f *telemetry.SealedFrame, now time.Time) error {
	name := f.Header.Agent
	s.mu.Lock()
	k, ok := s.keys[name]
	s.mu.Unlock()
	if ok && now.Sub(k.at) < keyAge {
		err := f.Verify(k.key)
		if err == nil {
			return k.allowed()
		}
		if now.Sub(k.doubted) < doubtGap {
			return err
		}
	}
	a, err := s.opt.Store.Agent(ctx, name)
	if err != nil {
		return err
	}
	k = knownKey{key: a.Key, revoked: !a.RevokedAt.IsZero(), at: now}
	if err = f.Verify(a.Key); err != nil {
		k.doubted = now
	}
	s.learn(name, k)
	if err != nil {
		return err
	}
	return k.allowed()
}

func (s *Service) learn(name string, k knownKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.keys) >= maxKeys {
		clear(s.keys)
	}
	s.keys[name] = k
}

func (k *knownKey) allowed() error {
	if k.revoked {
		return store.ErrRevoked
	}
	return nil
}

// records opens the frame and looks for what no database can hold. MQTT allows
// neither in a topic, so only a broken agent sends it.
func records(f *telemetry.SealedFrame) ([]telemetry.Record, error) {
	recs, err := f.Records()
	if err != nil {
		return nil, err
	}
	for i := range recs {
		r := recs[i].Reading
		if r != nil && (!utf8.ValidString(r.Topic) || strings.Contains(r.Topic, "\x00")) {
			return nil, fmt.Errorf("seq %d: topic is not UTF-8, or has a zero byte", recs[i].Seq)
		}
	}
	return recs, nil
}

func (s *Service) commit(ctx context.Context, f store.Frame) (store.Result, error) {
	start := time.Now()
	res, err := s.opt.Store.Commit(ctx, f)
	s.metrics.commit.Observe(time.Since(start).Seconds())
	return res, err
}

func frameOf(f *telemetry.SealedFrame, at time.Time) store.Frame {
	h := &f.Header
	return store.Frame{
		Agent: h.Agent, Epoch: h.Epoch, First: h.First, Last: h.Last,
		Open: h.Open, OpenTotal: h.OpenTotal, Sent: h.Sent, Received: at,
	}
}

// quarantine keeps a frame raw whose signature is good: its seqs count as held,
// since sending it again would not help. What not even that can hold is
// rejected to the agent.
func (s *Service) quarantine(ctx context.Context, f *telemetry.SealedFrame, why error, at time.Time) (string, error) {
	if f.Header.Last == 0 {
		return s.reject(ctx, f.Header.Agent, why.Error(), f.Bytes(), at)
	}
	s.opt.Logger.Warn("ingest: frame quarantined", "agent", f.Header.Agent, "epoch", f.Header.Epoch.String(), "first", f.Header.First, "last", f.Header.Last, "error", why)
	frame := frameOf(f, at)
	// A copy: a store that is not waited for any more may still read it.
	frame.Raw, frame.Why = bytes.Clone(f.Bytes()), why.Error()
	res, err := s.commit(ctx, frame)
	if errors.Is(err, store.ErrRevoked) {
		return s.refuse(ctx, f, at), nil
	}
	if errors.Is(err, store.ErrUnstorable) {
		s.opt.Receipts.Due(frame.Agent, nil, []telemetry.Rejection{{
			Epoch: frame.Epoch, Seqs: frame.Range(), Reason: cut(err.Error(), telemetry.MaxReason),
		}})
		return s.reject(ctx, frame.Agent, err.Error(), f.Bytes(), at)
	}
	if err != nil {
		return resultRetry, err
	}
	s.answer(&frame, res)
	return resultQuarantined, nil
}

// refuse drops a frame of an agent that was revoked. The receipt tells the agent,
// which then sends empty frames alone and keeps its readings; only a frame that
// has some leaves a sample.
func (s *Service) refuse(ctx context.Context, f *telemetry.SealedFrame, at time.Time) string {
	s.opt.Receipts.Due(f.Header.Agent, []telemetry.Epoch{f.Header.Epoch}, nil)
	if f.Header.Last > 0 {
		s.sample(ctx, f.Header.Agent, "the agent is revoked", f.Bytes(), at)
	}
	return resultRevoked
}

// answer tells whom it concerns of a commit: of the epochs that the frame names,
// and of those that it explained something of, as far as one receipt has room.
func (s *Service) answer(f *store.Frame, res store.Result) string {
	epochs := make([]telemetry.Epoch, 0, telemetry.MaxEpochs)
	epochs = append(epochs, f.Epoch)
	for _, o := range f.Open {
		if o.Epoch != f.Epoch {
			epochs = append(epochs, o.Epoch)
		}
	}
	for _, e := range res.Epochs {
		if len(epochs) < telemetry.MaxEpochs && !slices.Contains(epochs, e) {
			epochs = append(epochs, e)
		}
	}
	s.opt.Receipts.Due(f.Agent, epochs, nil)
	s.metrics.committed(res)
	for _, a := range res.Alarms {
		s.opt.Logger.Warn("ingest: alarm", "agent", f.Agent, "kind", a.Kind, "epoch", a.Epoch.String(), "detail", a.Detail)
	}
	if s.opt.Feed != nil && res.Records > 0 {
		s.opt.Feed(f, res)
	}
	switch {
	case f.Last == 0:
		return resultEmpty
	case res.Records == 0:
		return resultDuplicate
	}
	return resultStored
}

// reject drops an event that no key vouches for.
func (s *Service) reject(ctx context.Context, agent, why string, raw []byte, at time.Time) (string, error) {
	s.sample(ctx, agent, why, raw, at)
	return resultRejected, nil
}

// sample keeps the beginning of an event that stores nothing when the last one
// is some time ago; if that fails nothing is lost.
func (s *Service) sample(ctx context.Context, agent, why string, raw []byte, at time.Time) {
	s.mu.Lock()
	sample := at.Sub(s.sampled) >= sampleGap
	if sample {
		s.sampled = at
	}
	s.mu.Unlock()
	if !sample {
		return
	}
	s.opt.Logger.Warn("ingest: event rejected", "agent", agent, "why", why, "bytes", len(raw))
	if err := s.opt.Store.Reject(ctx, store.Rejected{Agent: agent, Why: why, Raw: raw, Received: at}); err != nil {
		s.opt.Logger.Warn("ingest: sample not kept", "error", err)
	}
}

func cut(s string, n int) string { return strings.ToValidUTF8(s[:min(len(s), n)], "") }
