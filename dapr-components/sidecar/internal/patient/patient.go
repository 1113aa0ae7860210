// Package patient wraps Dapr pub/sub components that insist on a broker being there, so that a sidecar starts and stays up without one.
//
// Init returns at once; the component inside is made in the background, again and again with full jitter up to 10 seconds, and is
// replaced when it is found dead. Publish fails at once while there is none. Subscriptions are made on each new one.
package patient

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dapr/components-contrib/health"
	"github.com/dapr/components-contrib/pubsub"
	"github.com/dapr/kit/logger"

	"github.com/holdfast-edge/holdfast/dapr-components/sidecar/internal/retry"
)

// announce is the one metadata name that is ours and not the component's.
const announce = "announce"

var (
	// ErrNotReady is returned by Publish and Ping, at once, while the broker is away.
	ErrNotReady = errors.New("broker is away")
	// ErrClosed is returned by every method after Close.
	ErrClosed = errors.New("pub/sub component is closed")
)

// Broker says how to deal with one kind of component.
type Broker struct {
	// New makes the component.
	New func(logger.Logger) pubsub.PubSub
	// Required names the metadata without which Init fails at once, because waiting would never help.
	Required []string
	// Prepare, if set, adjusts a copy of the metadata for each new component.
	Prepare func(props map[string]string)
	// Watch, if set, connects before the component does and reports the loss of that connection by closing lost. It is for components
	// that neither tell of a loss nor can be asked.
	Watch func(ctx context.Context, props map[string]string) (lost <-chan struct{}, stop func(), err error)
	// Ping, if set, asks the broker for those that have no Ping of their own.
	Ping func(ctx context.Context, props map[string]string) error
	// Renew makes a new component when a topic is subscribed a second time: for those that keep something of the first time, as
	// messages that nobody acknowledged.
	Renew bool
	// Alone gives each subscription a component of its own, which ends with it: for those that cannot have two subscriptions begin at the
	// same time, or that keep something of one that ended.
	Alone bool
	// Insist asks a handler that failed again and again: for those that deliver a message once a connection.
	Insist bool
}

// Component implements pubsub.PubSub round another one. Make it with Broker.Wrap.
type Component struct {
	broker Broker
	log    logger.Logger
	props  map[string]string
	tell   bool // subscribers get an empty message each time their subscription stands
	stop   context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	life    *life // the component at work, nil while there is none
	subs    []*subscription
	lastErr error
}

type subscription struct {
	ctx     context.Context
	req     pubsub.SubscribeRequest
	handler pubsub.Handler
}

// Wrap returns a constructor to register in the place of the broker's own.
func (b Broker) Wrap() func(logger.Logger) pubsub.PubSub {
	return func(l logger.Logger) pubsub.PubSub {
		return &Component{broker: b, log: l}
	}
}

// Init starts making the component inside in the background. Its only error is required metadata that is missing.
func (c *Component) Init(_ context.Context, md pubsub.Metadata) error {
	c.props = make(map[string]string, len(md.Properties))
	for k, v := range md.Properties {
		if v = strings.TrimSpace(v); v != "" { // an optional secret that is unset
			c.props[k] = v
		}
	}
	c.tell, _ = strconv.ParseBool(c.props[announce]) // what is no bool is a no
	delete(c.props, announce)
	for _, name := range c.broker.Required {
		if !hasFold(c.props, name) {
			return fmt.Errorf("%s is empty: set it, or the secret that it refers to", name)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.wg.Go(func() { c.run(ctx) })
	return nil
}

func hasFold(props map[string]string, name string) bool {
	for k := range props {
		if strings.EqualFold(k, name) {
			return true
		}
	}
	return false
}

// run keeps a component alive until ctx ends.
func (c *Component) run(ctx context.Context) {
	var wait backoff
	for ctx.Err() == nil {
		l, err := c.begin(ctx)
		if err != nil {
			c.failed(err)
			wait.sleep(ctx)
			continue
		}
		began := time.Now()
		c.log.Infof("pub/sub: connected")
		c.serve(ctx, l)
		if l.worked.Load() || time.Since(began) > time.Minute {
			wait.reset()
		}
		wait.sleep(ctx)
	}
}

// begin makes one component and waits for its Init.
func (c *Component) begin(ctx context.Context) (*life, error) {
	props := c.broker.prepared(c.props)
	l := newLife(c.broker, c.props, c.log)
	l.tell = c.tell
	l.ping = c.broker.ping(l.inner, props)
	if c.broker.Watch != nil {
		lost, stop, err := c.broker.Watch(ctx, props)
		if err != nil {
			return nil, err
		}
		l.lost, l.unwatch = lost, stop
	}
	if err := connect(ctx, l.inner, props); err != nil {
		l.unwatch()
		return nil, err
	}
	return l, nil
}

// serve publishes and subscribes through the component until it is lost or ctx ends, then closes it.
func (c *Component) serve(ctx context.Context, l *life) {
	c.mu.Lock()
	c.life, c.lastErr = l, nil
	subs := slices.Clone(c.subs)
	c.mu.Unlock()
	for _, s := range subs {
		l.subscribe(s)
	}
	l.watch(ctx)
	c.mu.Lock()
	c.life = nil
	if cause := context.Cause(l.ctx); ctx.Err() == nil {
		c.lastErr = cause
		c.log.Warnf("pub/sub: connecting anew: %v", cause)
	}
	c.mu.Unlock()
	l.close()
}

// failed says why there is no component, once for each reason.
func (c *Component) failed(err error) {
	c.mu.Lock()
	same := c.lastErr != nil && retry.Reason(c.lastErr) == retry.Reason(err)
	c.lastErr = err
	c.mu.Unlock()
	if !same {
		c.log.Warnf("pub/sub: cannot connect, trying again for ever: %v", err)
	}
}

func (c *Component) current() (*life, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return nil, ErrClosed
	case c.life != nil:
		return c.life, nil
	case c.lastErr != nil:
		return nil, fmt.Errorf("%w: %w", ErrNotReady, c.lastErr)
	}
	return nil, ErrNotReady
}

// Publish returns ErrNotReady at once while the broker is away. It never returns nil after ctx has ended, though components do.
func (c *Component) Publish(ctx context.Context, req *pubsub.PublishRequest) error {
	l, err := c.current()
	if err != nil {
		return err
	}
	return l.publish(ctx, req)
}

// Subscribe returns at once; the handler is called when the broker is there, until ctx ends or the component is closed.
func (c *Component) Subscribe(ctx context.Context, req pubsub.SubscribeRequest, handler pubsub.Handler) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	s := &subscription{ctx: ctx, req: req, handler: handler}
	c.subs = append(c.subs, s)
	context.AfterFunc(ctx, func() { c.remove(s) })
	if c.life != nil {
		c.life.resubscribe(s)
	}
	return nil
}

// remove forgets a subscription that has ended. Components that know only one handler a topic may forget another's with it.
func (c *Component) remove(s *subscription) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subs = slices.DeleteFunc(c.subs, func(o *subscription) bool { return o == s })
	shared := slices.ContainsFunc(c.subs, func(o *subscription) bool { return o.req.Topic == s.req.Topic })
	if shared && c.broker.Renew && c.life != nil {
		c.life.end(fmt.Errorf("topic %s lost one of its subscribers", s.req.Topic))
	}
}

// Close ends everything. A component that does not let itself be closed within five seconds is left behind.
func (c *Component) Close() error {
	c.mu.Lock()
	was := c.closed
	c.closed = true
	c.mu.Unlock()
	if was || c.stop == nil {
		return nil
	}
	c.stop()
	c.wg.Wait()
	return nil
}

// Ping returns nil while the component inside is there, and what that one says if it can be asked.
func (c *Component) Ping(ctx context.Context) error {
	l, err := c.current()
	if err != nil {
		return err
	}
	if l.ping == nil {
		return nil
	}
	return l.ping(ctx)
}

// prepared is the metadata for a new component.
func (b Broker) prepared(props map[string]string) map[string]string {
	props = maps.Clone(props)
	if b.Prepare != nil {
		b.Prepare(props)
	}
	return props
}

// ping is the component's own, or the broker's, or nil.
func (b Broker) ping(inner pubsub.PubSub, props map[string]string) func(context.Context) error {
	if p, ok := inner.(health.Pinger); ok {
		return p.Ping
	}
	if b.Ping == nil {
		return nil
	}
	return func(ctx context.Context) error { return b.Ping(ctx, props) }
}

// Features are those of the component inside.
func (c *Component) Features() []pubsub.Feature { return c.broker.New(c.log).Features() }
