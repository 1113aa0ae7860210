// Package jetstream is a Dapr pub/sub component for NATS JetStream that does not mind when its server is away.
//
// It takes the metadata names of Dapr's own component and gives three guarantees that one does not: Init returns at once and the
// connection is made and remade for ever; Publish returns nil only after the server's PubAck, and fails fast while there is no
// connection; a subscription is checked every 30 seconds and after each reconnect, and is remade when the server forgot it.
package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/dapr/components-contrib/pubsub"
	"github.com/dapr/kit/logger"
)

var (
	// ErrClosed is returned by every method after Close.
	ErrClosed = errors.New("jetstream: closed")
	// ErrNotConnected is returned by Publish and Ping, at once, while there is no connection to a server.
	ErrNotConnected = errors.New("jetstream: not connected")
)

// Component implements pubsub.PubSub. Its zero value is of no use: call New, then Init once.
type Component struct {
	log    logger.Logger
	meta   metadata
	link   *link
	keeper *keeper

	stop context.CancelFunc
	wg   sync.WaitGroup

	mu     sync.Mutex
	closed bool
}

// New returns a component that Init has to be called on.
func New(l logger.Logger) pubsub.PubSub {
	return &Component{log: l}
}

// Init checks the metadata and starts connecting in the background. Its only errors are wrong settings.
func (c *Component) Init(_ context.Context, md pubsub.Metadata) error {
	meta, unknown, err := parseMetadata(md.Properties)
	if err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	for _, k := range unknown {
		c.log.Warnf("jetstream: unknown metadata %q is ignored", k)
	}
	opts, err := meta.connectOptions()
	if err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	c.meta = meta
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.link = newLink(meta, opts, c.log)
	c.keeper = newKeeper(meta, c.link, c.log)
	c.wg.Go(func() { c.link.run(ctx) })
	c.wg.Go(func() { c.keeper.run(ctx) })
	return nil
}

// Features says that the component has none of the optional ones.
func (c *Component) Features() []pubsub.Feature { return nil }

// Ping returns nil while connected. A sidecar without its broker is degraded, not dead, so the runtime's health does not ask this.
func (c *Component) Ping(context.Context) error {
	if c.link == nil {
		return ErrNotConnected
	}
	_, err := c.link.current()
	return err
}

// Subscribe delivers messages of the topic to the handler until ctx ends or the component is closed. It returns at once: the consumer
// is made when the server and the stream are there. The handler's error puts the message back for a later, slower redelivery.
func (c *Component) Subscribe(ctx context.Context, req pubsub.SubscribeRequest, handler pubsub.Handler) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	if req.Topic == "" {
		return errors.New("jetstream: topic is empty")
	}
	s := newSubscription(ctx, c.meta, req.Topic, handler, c.log)
	c.keeper.add(s)
	c.wg.Go(func() {
		defer c.keeper.remove(s)
		s.run()
	})
	return nil
}

// Close ends the subscriptions, gives back what was not handled, and disconnects. It waits for running handlers.
func (c *Component) Close() error {
	c.mu.Lock()
	if c.closed || c.keeper == nil {
		c.closed = true
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	c.mu.Unlock()

	c.keeper.closeAll() // while the connection is there, so that acknowledgements still go out
	c.stop()
	c.wg.Wait()
	return nil
}
