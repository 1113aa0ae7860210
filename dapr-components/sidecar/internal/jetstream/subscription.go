package jetstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/dapr/components-contrib/pubsub"
	"github.com/dapr/kit/logger"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	firstNak = 250 * time.Millisecond // doubles with each delivery up to ackWait
	spare    = 64                     // room in the queue for what the server sends twice
)

// subscription is one handler on one topic. The keeper binds it to the server; it only receives, handles and acknowledges.
type subscription struct {
	topic   string
	meta    metadata
	handler pubsub.Handler
	log     logger.Logger
	ctx     context.Context
	cancel  context.CancelFunc
	msgs    chan *nats.Msg
	news    chan struct{} // a token when the subscription stands on a new connection
	done    chan struct{} // closed when the last handler has returned

	mu    sync.Mutex
	told  context.Context // session that the handler was told of
	bound *nats.Subscription
	state string // what was logged last, so that a state is said once
}

func newSubscription(ctx context.Context, meta metadata, topic string, h pubsub.Handler, log logger.Logger) *subscription {
	s := &subscription{topic: topic, meta: meta, handler: h, log: log, done: make(chan struct{}), news: make(chan struct{}, 1)}
	s.ctx, s.cancel = context.WithCancel(ctx)
	s.msgs = make(chan *nats.Msg, max(meta.MaxAckPending, 0)+spare)
	return s
}

// run handles messages until the subscription's context ends, then gives back those that nobody has looked at.
func (s *subscription) run() {
	defer close(s.done)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-s.ctx.Done():
			s.unbind()
			s.giveBack()
			return
		case <-s.news:
			// Whether it was taken does not matter: it is a hint, and costs nothing to miss.
			_ = s.handler(s.ctx, &pubsub.NewMessage{Topic: s.topic})
		case m := <-s.msgs:
			if s.meta.Concurrency == string(pubsub.Parallel) { // the server bounds them: maxAckPending
				wg.Go(func() { s.handle(m) })
				continue
			}
			s.handle(m)
		}
	}
}

// handle gives one message to the app. While the app works on it the server is told so, or it would send it again after ackWait.
func (s *subscription) handle(m *nats.Msg) {
	info, err := m.Metadata()
	if err != nil {
		return // a heartbeat or a status: not a message of the stream
	}
	stop := s.keepAlive(m)
	err = s.handler(s.ctx, &pubsub.NewMessage{Topic: s.topic, Data: m.Data, Metadata: map[string]string{"Topic": m.Subject}})
	stop()
	if s.meta.ackPolicy() == jetstream.AckNonePolicy {
		return
	}
	if err == nil {
		err = m.Ack()
	} else {
		s.log.Warnf("jetstream: %s: delivery %d of message %d was not taken: %v", s.topic, info.NumDelivered, info.Sequence.Stream, err)
		err = m.NakWithDelay(nakDelay(info.NumDelivered, s.meta.AckWait))
	}
	if err != nil {
		s.log.Debugf("jetstream: %s: message %d will be delivered again: %v", s.topic, info.Sequence.Stream, err)
	}
}

// keepAlive extends ackWait until the returned func is called, ten times at most: a handler that hangs must not keep a message for ever.
func (s *subscription) keepAlive(m *nats.Msg) (stop func() bool) {
	left := 10
	var mu sync.Mutex
	var t *time.Timer
	every := s.meta.AckWait / 2
	mu.Lock()
	defer mu.Unlock()
	t = time.AfterFunc(every, func() {
		mu.Lock()
		defer mu.Unlock()
		_ = m.InProgress() // not connected: it will be delivered again, as it must
		if left--; left > 0 {
			t.Reset(every)
		}
	})
	return t.Stop
}

// nakDelay keeps a failing handler from a hot loop: 250 ms, doubling with each delivery up to ackWait, with jitter of a half.
func nakDelay(delivered uint64, ackWait time.Duration) time.Duration {
	d := ackWait
	if n := max(delivered, 1) - 1; n < 16 {
		d = min(firstNak<<n, ackWait)
	}
	return d/2 + rand.N(d/2+1)
}

// giveBack returns what is queued here to the server at once, for another subscriber or a later one.
func (s *subscription) giveBack() {
	for {
		select {
		case m := <-s.msgs:
			_ = m.Nak() // not connected, or not a message: ackWait does the same
		default:
			return
		}
	}
}

// bind subscribes to the deliver subject on this connection, unless that is so already.
func (s *subscription) bind(nc *nats.Conn, subject, group string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return nil
	}
	if s.bound != nil && s.bound.IsValid() && s.bound.Subject == subject && s.bound.Queue == group {
		return nil
	}
	if s.bound != nil {
		_ = s.bound.Unsubscribe()
	}
	sub, err := nc.ChanQueueSubscribe(subject, group, s.msgs)
	if err != nil {
		return err
	}
	s.bound = sub
	return nil
}

func (s *subscription) unbind() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bound == nil {
		return
	}
	err := s.bound.Unsubscribe()
	if err != nil && !errors.Is(err, nats.ErrConnectionClosed) && !errors.Is(err, nats.ErrBadSubscription) {
		s.log.Debugf("jetstream: %s: unsubscribe: %v", s.topic, err)
	}
	s.bound = nil
}

// announce tells the handler, once a connection and only if the file asks for it, that messages can come and go again: it is handed an
// empty message that no server sent. Who waited for the broker then need not wait for the next attempt.
func (s *subscription) announce(session context.Context) {
	s.mu.Lock()
	news := s.meta.Announce && s.told != session
	s.told = session
	s.mu.Unlock()
	if !news {
		return
	}
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// say logs a state once.
func (s *subscription) say(state string, logf func(string, ...any)) {
	s.mu.Lock()
	same := s.state == state
	s.state = state
	s.mu.Unlock()
	if !same {
		logf("jetstream: subscription %s: %s", s.topic, state)
	}
}
