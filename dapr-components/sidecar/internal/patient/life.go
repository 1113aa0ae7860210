package patient

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dapr/components-contrib/pubsub"
	"github.com/dapr/kit/logger"

	"github.com/holdfast-edge/holdfast/dapr-components/sidecar/internal/retry"
)

const (
	initTimeout  = 25 * time.Second // longer than any of the components waits itself
	closeTimeout = 5 * time.Second
	pingEvery    = 10 * time.Second
	pingTimeout  = 5 * time.Second
	deadAfter    = 3  // publishes, or pings, that failed in a row
	maxInFlight  = 64 // publishes at once; a component that hangs holds no more than these
)

// life is one component from its making to its end.
type life struct {
	broker  Broker
	props   map[string]string // as the file has them
	inner   pubsub.PubSub
	ping    func(context.Context) error // nil: it cannot be asked
	tell    bool
	log     logger.Logger
	lost    <-chan struct{} // closed when the watching connection is gone; nil: not watched
	unwatch func()

	ctx    context.Context // ends, with the cause, when the component is to be replaced
	end    context.CancelCauseFunc
	slots  chan struct{}
	worked atomic.Bool // a publish or a ping has succeeded
	failed atomic.Int32
	wg     sync.WaitGroup

	mu     sync.Mutex
	topics map[string]bool // that have been subscribed in this life
}

func newLife(b Broker, props map[string]string, log logger.Logger) *life {
	l := &life{
		broker: b, props: props, inner: b.New(log), log: log, unwatch: func() {},
		slots: make(chan struct{}, maxInFlight), topics: map[string]bool{},
	}
	l.ctx, l.end = context.WithCancelCause(context.Background())
	return l
}

// connect calls Init and does not wait for it longer than ctx or initTimeout; one that succeeds too late is closed.
func connect(ctx context.Context, inner pubsub.PubSub, props map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, initTimeout)
	done := make(chan error, 1)
	go func() {
		defer cancel()
		done <- guard(func() error {
			return inner.Init(ctx, pubsub.Metadata{Base: base(props)})
		})
	}()
	select {
	case err := <-done:
		if err != nil {
			_ = guard(inner.Close) // some leave a pool behind, some panic for want of a connection
		}
		return err
	case <-ctx.Done():
		go func() {
			_ = <-done // too late to matter
			_ = guard(inner.Close)
		}()
		return fmt.Errorf("connect: %w", context.Cause(ctx))
	}
}

// watch returns when the component is to be replaced or ctx ends.
func (l *life) watch(ctx context.Context) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for bad := 0; ; {
		select {
		case <-ctx.Done():
			l.end(ErrClosed)
			return
		case <-l.ctx.Done():
			return
		case <-l.lost:
			l.end(errors.New("connection lost"))
			return
		case <-tick.C:
			if l.ping == nil {
				continue
			}
			bad++
			if err := l.ask(); err == nil {
				bad = 0
				l.worked.Store(true)
			} else if bad >= deadAfter {
				l.end(fmt.Errorf("no answer to %d pings: %w", bad, err))
				return
			}
		}
	}
}

func (l *life) ask() error {
	ctx, cancel := context.WithTimeout(l.ctx, pingTimeout)
	defer cancel()
	return l.ping(ctx)
}

// publish waits for the component's answer no longer than ctx, and counts failures in a row.
func (l *life) publish(ctx context.Context, req *pubsub.PublishRequest) error {
	select {
	case l.slots <- struct{}{}:
	default:
		return fmt.Errorf("%w: %d publishes are waiting for it already", ErrNotReady, maxInFlight)
	}
	done := make(chan error, 1)
	go func() {
		defer func() { <-l.slots }()
		done <- guard(func() error { return l.inner.Publish(ctx, req) })
	}()
	var err error
	select {
	case err = <-done:
		if err == nil {
			err = ctx.Err() // what ends with its time is not an answer of the broker
		}
	case <-ctx.Done():
		err = ctx.Err()
	case <-l.ctx.Done():
		return fmt.Errorf("%w: %w", ErrNotReady, context.Cause(l.ctx))
	}
	l.count(err)
	return err
}

// count replaces a component after three publishes in a row that failed. One that its caller gave up says nothing.
func (l *life) count(err error) {
	switch {
	case err == nil:
		l.failed.Store(0)
		l.worked.Store(true)
	case errors.Is(err, context.Canceled):
	case l.failed.Add(1) >= deadAfter:
		l.end(fmt.Errorf("%d publishes failed in a row: %w", deadAfter, err))
	}
}

// resubscribe is subscribe for a topic that may have been subscribed in this life: if so, and if the broker wants that, the next life does it.
func (l *life) resubscribe(s *subscription) {
	l.mu.Lock()
	again := l.topics[s.req.Topic]
	l.mu.Unlock()
	if again && l.broker.Renew {
		l.end(fmt.Errorf("topic %s is subscribed again", s.req.Topic))
		return
	}
	l.subscribe(s)
}

// subscribe makes the subscription in the background, again and again until it stands.
func (l *life) subscribe(s *subscription) {
	l.mu.Lock()
	l.topics[s.req.Topic] = true
	l.mu.Unlock()
	l.wg.Go(func() {
		ctx, cancel := context.WithCancel(s.ctx)
		context.AfterFunc(l.ctx, cancel) // it ends with either
		handler := l.deliver(ctx, s.handler)
		var wait backoff
		for ctx.Err() == nil && l.ctx.Err() == nil {
			err := l.subscribeOnce(ctx, s.req, handler)
			if err == nil || ctx.Err() != nil {
				if l.tell && ctx.Err() == nil {
					_ = s.handler(ctx, &pubsub.NewMessage{Topic: s.req.Topic}) // a hint: who waited for the broker need not wait for the next attempt
				}
				return
			}
			l.log.Warnf("pub/sub: cannot subscribe to %s, trying again: %v", s.req.Topic, err)
			wait.sleep(l.ctx)
		}
	})
}

// subscribeOnce subscribes with the component at work, or with one of the subscription's own.
func (l *life) subscribeOnce(ctx context.Context, req pubsub.SubscribeRequest, h pubsub.Handler) error {
	if !l.broker.Alone {
		return guard(func() error { return l.inner.Subscribe(ctx, req, h) })
	}
	own := l.broker.New(l.log)
	if err := connect(ctx, own, l.broker.prepared(l.props)); err != nil {
		return err
	}
	err := guard(func() error { return own.Subscribe(ctx, req, h) })
	l.wg.Go(func() {
		if err == nil {
			<-ctx.Done()
		}
		_ = guard(own.Close)
	})
	return err
}

// deliver makes the pauses that most components lack between a refusal and the next delivery: without them a subscription that the runtime is
// about to end is asked in a loop so tight that its end never comes. Where the broker would not deliver again, the handler is
// asked again here, until it takes the message or the subscription ends.
func (l *life) deliver(ctx context.Context, h pubsub.Handler) pubsub.Handler {
	var failures atomic.Int32
	return func(mctx context.Context, m *pubsub.NewMessage) error {
		for {
			err := h(mctx, m)
			if err == nil {
				failures.Store(0)
				return nil
			}
			retry.Sleep(ctx, pause(failures.Add(1)))
			if !l.broker.Insist || ctx.Err() != nil {
				return err
			}
		}
	}
}

// close ends the subscriptions and closes the component, and waits for neither longer than closeTimeout.
func (l *life) close() {
	l.end(ErrClosed)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = guard(l.inner.Close) // it is being thrown away: its parting words help nobody
		l.wg.Wait()
	}()
	t := time.NewTimer(closeTimeout)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		l.log.Warnf("pub/sub: the old component does not end, leaving it behind")
	}
	l.unwatch()
}

// guard turns a panic of a component that was never connected into an error.
func guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("component panicked: %v", r)
		}
	}()
	return f()
}
