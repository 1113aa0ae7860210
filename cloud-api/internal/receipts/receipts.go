// Package receipts answers agents: what the store holds of their epochs, signed,
// some milliseconds after a commit. A receipt that could not be sent is tried
// again for as long as it takes, and made anew each time, so that it never says
// less than is true.
package receipts

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

const (
	// Coalesce is how long a receipt waits for further commits of its agent.
	Coalesce = 50 * time.Millisecond

	// maxPending bounds the agents that wait for an answer. One that falls out
	// sends its oldest frame again and is answered then.
	maxPending = 20_000
	// workers is how many receipts are made and sent at the same time.
	workers = 8
	// firstRetry and lastRetry bound the wait after a failed attempt.
	firstRetry = 250 * time.Millisecond
	lastRetry  = 10 * time.Second
	// attempt bounds one receipt, from the ledger to the broker.
	attempt = 10 * time.Second

	// fullWindow is what an idle cloud lets each agent have in flight, and
	// leastWindow what a busy one does: one frame of the largest size.
	fullWindow  = 8 << 20
	leastWindow = 1 << 20
	// busyRetry is how long agents wait when frames queue for a slot.
	busyRetry = 2 * time.Second
)

// Ledger tells what is held.
type Ledger interface {
	Receipt(ctx context.Context, agent string, epochs []telemetry.Epoch) (store.Receipt, error)
}

// Publisher sends to a topic; nil means that the broker has it.
type Publisher interface {
	Publish(ctx context.Context, topic string, data []byte) error
}

// Options is what a Service needs.
type Options struct {
	Cloud      string // id in every receipt
	Ledger     Ledger
	Publisher  Publisher
	Signer     func() telemetry.ReceiptSigner // asked for each receipt: keys are renewed
	Load       func() float64                 // of ingest; see ingest.Service.Load
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Service makes receipts.
type Service struct {
	opt     Options
	metrics *metrics

	mu      sync.Mutex
	pending map[string]*pending
	wake    chan struct{} // capacity 1
	failing bool          // the last attempt failed; so that it is logged once
}

// pending is one agent that waits for an answer.
type pending struct {
	epochs   []telemetry.Epoch
	rejected []telemetry.Rejection
	due      time.Time
	wait     time.Duration // after the last failure
	busy     bool          // a worker has it
	again    bool          // something came while it was busy
}

// New returns a Service; Run makes it work.
func New(o Options) *Service {
	return &Service{opt: o, metrics: newMetrics(o.Registerer), pending: map[string]*pending{}, wake: make(chan struct{}, 1)}
}

// Due says that the agent is to be told of these epochs, soon. It never blocks.
func (s *Service) Due(agent string, epochs []telemetry.Epoch, rejected []telemetry.Rejection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.pending[agent]
	if !ok {
		if len(s.pending) >= maxPending {
			s.metrics.dropped.Inc()
			return
		}
		p = &pending{due: time.Now().Add(Coalesce)}
		s.pending[agent] = p
		s.metrics.pending.Set(float64(len(s.pending)))
	}
	p.add(epochs, rejected)
	p.again = true
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// add merges what is due. The newest epochs push out the oldest when there are
// more than one receipt holds: the device asks again.
func (p *pending) add(epochs []telemetry.Epoch, rejected []telemetry.Rejection) {
	for _, e := range epochs {
		if i := slices.Index(p.epochs, e); i >= 0 {
			p.epochs = slices.Delete(p.epochs, i, i+1)
		}
		p.epochs = append(p.epochs, e)
	}
	if over := len(p.epochs) - telemetry.MaxEpochs; over > 0 {
		p.epochs = slices.Delete(p.epochs, 0, over)
	}
	if len(p.rejected)+len(rejected) <= telemetry.MaxRejected {
		p.rejected = append(p.rejected, rejected...)
	}
}

// Run sends receipts until ctx ends, then once more what is pending, and
// returns nil.
func (s *Service) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	slots := make(chan struct{}, workers)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		agents, next := s.due(time.Now())
		for _, a := range agents {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				s.send(ctx, a)
			})
		}
		timer.Reset(next)
		select {
		case <-timer.C:
		case <-s.wake:
		case <-ctx.Done():
		}
	}
	wg.Wait()
	s.last()
	return nil
}

// due takes the agents whose time has come, and says how long until the next.
func (s *Service) due(now time.Time) (agents []string, next time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next = time.Hour
	for a, p := range s.pending {
		switch wait := p.due.Sub(now); {
		case p.busy:
		case wait <= 0:
			p.busy, p.again = true, false
			agents = append(agents, a)
		case wait < next:
			next = wait
		}
	}
	return agents, next
}

// send makes and sends one receipt and settles what follows from how it went.
func (s *Service) send(ctx context.Context, agent string) {
	s.mu.Lock()
	p := s.pending[agent]
	epochs, rejected := p.epochs, p.rejected
	p.epochs, p.rejected = nil, nil
	s.mu.Unlock()

	start := time.Now()
	actx, cancel := context.WithTimeout(ctx, attempt)
	err := s.once(actx, agent, epochs, rejected)
	cancel()
	s.metrics.sent(err, time.Since(start))

	s.mu.Lock()
	defer s.mu.Unlock()
	p.busy = false
	switch {
	case err == nil && !p.again, errors.Is(err, store.ErrNotFound):
		delete(s.pending, agent)
	case err == nil:
		p.wait, p.due = 0, time.Now().Add(Coalesce)
	default:
		newer, more := p.epochs, p.rejected
		p.epochs, p.rejected = epochs, rejected
		p.add(newer, more)
		p.wait = min(max(2*p.wait, firstRetry), lastRetry)
		p.due = time.Now().Add(p.wait/2 + rand.N(p.wait/2))
	}
	s.metrics.pending.Set(float64(len(s.pending)))
	s.note(ctx, agent, err)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// note logs the first failure and the recovery.
func (s *Service) note(ctx context.Context, agent string, err error) {
	switch {
	case ctx.Err() != nil:
	case err != nil && !s.failing:
		s.failing = true
		s.opt.Logger.Warn("receipts: not sent, retrying", "agent", agent, "pending", len(s.pending), "error", err)
	case err == nil && s.failing:
		s.failing = false
		s.opt.Logger.Info("receipts: sent again", "pending", len(s.pending))
	}
}

// last gives what is pending one short try, so that a restart of the cloud does
// not make every agent send its last frames again.
func (s *Service) last() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	for a, p := range s.pending {
		if s.once(ctx, a, p.epochs, p.rejected) != nil {
			return
		}
		delete(s.pending, a)
	}
}

// once makes one receipt and sends it.
func (s *Service) once(ctx context.Context, agent string, epochs []telemetry.Epoch, rejected []telemetry.Rejection) error {
	state, err := s.opt.Ledger.Receipt(ctx, agent, epochs)
	if err != nil {
		return fmt.Errorf("read ledger: %w", err)
	}
	r := Build(state, rejected)
	r.Cloud, r.Agent, r.Issued = s.opt.Cloud, agent, time.Now().UTC()
	r.Window, r.RetryAfter = pace(s.opt.Load())
	b, err := telemetry.EncodeReceipt(r, s.opt.Signer())
	if err != nil {
		return fmt.Errorf("sign receipt: %w", err)
	}
	if err := s.opt.Publisher.Publish(ctx, "down."+agent, b); err != nil {
		return fmt.Errorf("publish receipt: %w", err)
	}
	return nil
}

// Build makes the part of a receipt that follows from the ledgers.
func Build(state store.Receipt, rejected []telemetry.Rejection) telemetry.Receipt {
	r := telemetry.Receipt{Revision: state.Revision, Rejected: rejected, Revoked: state.Revoked}
	for _, e := range state.Epochs {
		w, held := e.Ledger.Receipt(telemetry.MaxHeld)
		r.Epochs = append(r.Epochs, telemetry.EpochReceipt{Epoch: e.Epoch, Watermark: w, Held: held})
		for _, part := range again(&e) {
			if len(r.Again) < telemetry.MaxAgain {
				r.Again = append(r.Again, telemetry.EpochRange{Epoch: e.Epoch, Seqs: part})
			}
		}
	}
	return r
}

// again returns what to ask the device for once more: what it was told is held
// and is not, and holes, which it answers with a reason.
func again(e *store.Epoch) []telemetry.Range {
	wanted := e.Ledger.Wanted()
	if e.Hole {
		return wanted
	}
	return wanted.Within(telemetry.Range{First: 1, Last: e.Ledger.Device.Trimmed})
}

// pace says how much an agent may have in flight under the load given.
func pace(load float64) (window uint64, retryAfter time.Duration) {
	free := 1 - min(load, 1)
	window = leastWindow + uint64(free*(fullWindow-leastWindow))
	if load > 2 {
		retryAfter = busyRetry
	}
	return window, retryAfter
}
