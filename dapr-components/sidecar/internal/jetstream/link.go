package jetstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/dapr/kit/logger"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-edge/holdfast/dapr-components/sidecar/internal/retry"
)

// firstWait is the upper end of the first wait before connecting again; it doubles up to maxReconnectWait.
const firstWait = 500 * time.Millisecond

// link owns the connection. It is made in the background, remade for ever, and says when it comes and goes.
type link struct {
	urls string
	opts []nats.Option
	meta metadata
	log  logger.Logger
	up   chan struct{} // a token each time the connection comes

	mu      sync.Mutex
	nc      *nats.Conn
	js      jetstream.JetStream
	session context.Context // ends when the connection is lost
	end     context.CancelFunc
	lastErr error
}

// conn is a connection at a moment at which it was up.
type conn struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	session context.Context
}

func newLink(meta metadata, opts []nats.Option, log logger.Logger) *link {
	l := &link{urls: meta.NatsURL, meta: meta, log: log, up: make(chan struct{}, 1)}
	l.opts = append(opts,
		nats.Name(meta.Name),
		nats.CustomInboxPrefix(meta.InboxPrefix),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),    // a server that is set up wrongly for a while must not end us
		nats.IgnoreDiscoveredServers(), // addresses inside the server's network mean nothing to an edge
		nats.CustomReconnectDelay(l.wait),
		nats.ReconnectBufSize(-1), // Publish fails at once instead of promising what a buffer may lose
		nats.Timeout(10*time.Second),
		nats.PingInterval(15*time.Second), // with two unanswered: a half-open connection is found in 45 s
		nats.MaxPingsOutstanding(2),
		nats.ConnectHandler(l.connected),
		nats.ReconnectHandler(l.connected),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { l.disconnected(err) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { l.failed(err) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { l.log.Warnf("jetstream: %v", err) }),
	)
	return l
}

// wait is full jitter: anything up to a bound that doubles, so that a thousand edges do not come back in step.
func (l *link) wait(attempts int) time.Duration {
	bound := l.meta.MaxReconnectWait
	if shift := max(attempts-1, 0); shift < 16 {
		bound = min(bound, firstWait<<shift)
	}
	return rand.N(bound) + 10*time.Millisecond
}

// run connects, and connects anew should the client ever close for good, until ctx ends.
func (l *link) run(ctx context.Context) {
	for n := 1; ctx.Err() == nil; n++ {
		closed := make(chan struct{})
		opts := append(l.opts[:len(l.opts):len(l.opts)], nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
		nc, err := nats.Connect(l.urls, opts...)
		if err != nil {
			l.failed(err)
			retry.Sleep(ctx, l.wait(n))
			continue
		}
		select {
		case <-closed:
			l.disconnected(nc.LastError())
			retry.Sleep(ctx, l.wait(n))
		case <-ctx.Done():
			l.shut(nc)
		}
	}
}

// shut flushes what was acknowledged last, then closes.
func (l *link) shut(nc *nats.Conn) {
	if nc.IsConnected() {
		_ = nc.FlushTimeout(time.Second) // what is lost here is delivered again
	}
	nc.Close()
	l.disconnected(nil)
}

func (l *link) connected(nc *nats.Conn) {
	js, err := l.jetStream(nc)
	if err != nil {
		l.log.Errorf("jetstream: %v", err)
		return
	}
	l.mu.Lock()
	if l.end != nil {
		l.end()
	}
	l.nc, l.js, l.lastErr = nc, js, nil
	l.session, l.end = context.WithCancel(context.Background())
	l.mu.Unlock()
	l.log.Infof("jetstream: connected to %s", nc.ConnectedUrlRedacted())
	select {
	case l.up <- struct{}{}:
	default:
	}
}

func (l *link) jetStream(nc *nats.Conn) (jetstream.JetStream, error) {
	switch {
	case l.meta.Domain != "":
		return jetstream.NewWithDomain(nc, l.meta.Domain)
	case l.meta.APIPrefix != "":
		return jetstream.NewWithAPIPrefix(nc, l.meta.APIPrefix)
	}
	return jetstream.New(nc)
}

func (l *link) disconnected(err error) {
	l.mu.Lock()
	was := l.end != nil
	if was {
		l.end()
	}
	l.nc, l.js, l.session, l.end = nil, nil, nil, nil
	l.mu.Unlock()
	if was {
		l.log.Warnf("jetstream: connection lost, connecting again for ever: %v", err)
	}
}

// failed notes why there is no connection, and says so once for each reason.
func (l *link) failed(err error) {
	err = redact(err)
	l.mu.Lock()
	same := l.lastErr != nil && retry.Reason(l.lastErr) == retry.Reason(err)
	l.lastErr = err
	l.mu.Unlock()
	if !same {
		l.log.Warnf("jetstream: cannot connect, trying again for ever: %v", err)
	}
}

// current returns the connection, or ErrNotConnected with the reason.
func (l *link) current() (conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.nc != nil && l.nc.IsConnected() {
		return conn{nc: l.nc, js: l.js, session: l.session}, nil
	}
	if l.lastErr != nil {
		return conn{}, fmt.Errorf("%w: %w", ErrNotConnected, l.lastErr)
	}
	return conn{}, ErrNotConnected
}

// redact keeps a password in a URL out of what the client library says about it.
func redact(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return fmt.Errorf("natsURL: %w", ue.Err)
	}
	if _, rest, ok := strings.Cut(err.Error(), "@"); ok {
		return errors.New("natsURL: …@" + rest)
	}
	return err
}
