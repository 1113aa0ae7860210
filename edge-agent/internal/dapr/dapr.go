// Package dapr is the agent's side of its Dapr sidecar: frames out, receipts
// in. It never waits for a sidecar: New returns at once, a publish fails within
// its deadline, a subscription is opened again for as long as it takes.
package dapr

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/dapr/go-sdk/client"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/retry"
)

const (
	// baseDeadline covers sidecar and broker when the link is good.
	baseDeadline = 10 * time.Second
	// slowest is the link, in bytes a second, over which a publish must still
	// come through: a crowded 2G cell.
	slowest = 8 << 10
	// firstRetry and lastRetry bound the wait before a connection or a
	// subscription is opened again. The sidecar is on this machine: trying costs
	// next to nothing, and receipts wait for it.
	firstRetry = 250 * time.Millisecond
	lastRetry  = 2 * time.Second
	// stable is how long a subscription must have stood for the wait to start
	// over.
	stable = 30 * time.Second
	// answer bounds how long the sidecar may take to confirm a subscription.
	answer = 20 * time.Second
)

// Options is what a Client needs; Logger and Registerer must be set.
type Options struct {
	Address    string // of the sidecar's gRPC port, HOST:PORT
	Token      string // the sidecar's API token; empty for none
	PubSub     string // name of the component
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Client talks to the sidecar over one lazy connection.
type Client struct {
	opts    Options
	conn    *grpc.ClientConn
	sdk     client.Client
	metrics *metrics

	mu         sync.Mutex
	subscribed bool
	published  time.Time
	failure    string
}

// State is what the status page shows of the sidecar.
type State struct {
	Connection    string    `json:"connection"` // idle, connecting, ready, transient_failure or shutdown
	Subscribed    bool      `json:"subscribed"` // receipts can come in
	LastPublished time.Time `json:"last_published,omitzero"`
	LastError     string    `json:"last_error,omitempty"` // of the last publish or subscription, if it failed
}

// Good reports whether frames go out and receipts can come in.
func (s State) Good() bool { return s.Subscribed && s.LastError == "" }

// hush keeps the SDK from writing to standard output; its logger is the
// process's, so the first client sets it for all.
var hush sync.Once

// New prepares a client; it opens no connection. It fails only when the address
// cannot be one.
func New(o Options) (*Client, error) {
	conn, err := grpc.NewClient("passthrough:///"+o.Address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the sidecar is on this machine or in this pod
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstRetry, Multiplier: 1.6, Jitter: 0.2, MaxDelay: lastRetry},
			MinConnectTimeout: 5 * time.Second,
		}),
		// A sidecar that hangs is found within 30 s while a stream is open.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
	)
	if err != nil {
		return nil, fmt.Errorf("prepare connection to sidecar %s: %w", o.Address, err)
	}
	hush.Do(func() { client.SetLogger(slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug)) })
	c := &Client{opts: o, conn: conn, sdk: client.NewClientWithConnection(conn)}
	c.metrics = newMetrics(o.Registerer, c)
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// State returns how things stand; it never blocks on the network.
func (c *Client) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return State{
		Connection: connection(c.conn.GetState()), Subscribed: c.subscribed, LastPublished: c.published, LastError: c.failure,
	}
}

func connection(s connectivity.State) string {
	return [...]string{"idle", "connecting", "ready", "transient_failure", "shutdown"}[s]
}

// Publish hands one frame to the sidecar as a raw payload. It returns nil when
// the broker behind the sidecar said that it has it, which proves nothing about
// the cloud, and an error within 10 s and the time that its size takes at 8 KiB
// a second.
func (c *Client) Publish(ctx context.Context, topic string, data []byte) error {
	ctx, cancel := context.WithTimeout(c.outgoing(ctx), deadline(len(data)))
	defer cancel()
	start := time.Now()
	err := explain(c.sdk.PublishEvent(ctx, c.opts.PubSub, topic, data,
		client.PublishEventWithContentType("application/octet-stream"), client.PublishEventWithRawPayload()))
	c.metrics.published(time.Since(start), err)
	c.note(err, func() { c.published = time.Now() })
	if err != nil {
		return fmt.Errorf("publish to %s: %w", topic, err)
	}
	return nil
}

// explain adds what to do to what a person can mend.
func explain(err error) error {
	if status.Code(err) == codes.Unauthenticated {
		return fmt.Errorf("%w (does uplink.dapr_token_file hold the sidecar's API token?)", err)
	}
	return err
}

func deadline(size int) time.Duration {
	return baseDeadline + time.Duration(size)*time.Second/slowest
}

func (c *Client) outgoing(ctx context.Context) context.Context {
	if c.opts.Token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "dapr-api-token", c.opts.Token)
}

// note keeps what State shows. What ends because the agent ends is no failure.
func (c *Client) note(err error, good func()) {
	if errors.Is(err, context.Canceled) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.failure = err.Error()
		return
	}
	c.failure = ""
	good()
}

// Subscribe calls handler with every message on the topic, one at a time, until
// ctx ends; only then it returns, with nil. It opens the subscription again, for
// ever, with a wait that grows to 2 s. The handler's errors are logged: a
// receipt that makes no sense makes none the second time either.
func (c *Client) Subscribe(ctx context.Context, topic string, handler func([]byte) error) error {
	pause := retry.Pause{First: firstRetry, Last: lastRetry}
	for quiet := false; ; quiet = true {
		start := time.Now()
		err := c.subscribeOnce(ctx, topic, handler)
		if ctx.Err() != nil {
			return nil
		}
		c.note(err, func() {})
		if time.Since(start) > stable {
			pause.Reset()
			quiet = false
		}
		level := slog.LevelWarn
		if quiet {
			level = slog.LevelDebug // said once; the state is on the status page
		}
		c.opts.Logger.Log(ctx, level, "dapr: subscription is down, retrying", "topic", topic, "error", err)
		if !pause.Sleep(ctx) {
			return nil
		}
	}
}

// subscribeOnce returns when the subscription breaks.
func (c *Client) subscribeOnce(ctx context.Context, topic string, handler func([]byte) error) error {
	ctx, cancel := context.WithCancel(c.outgoing(ctx))
	defer cancel()
	late := time.AfterFunc(answer, cancel) // the SDK waits for the first answer for ever
	sub, err := c.sdk.Subscribe(ctx, client.SubscriptionOptions{
		PubsubName: c.opts.PubSub, Topic: topic, Metadata: map[string]string{"rawPayload": "true"},
	})
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", topic, explain(err))
	}
	if !late.Stop() {
		return fmt.Errorf("subscribe to %s: no answer in %s", topic, answer)
	}
	c.setSubscribed(true)
	defer c.setSubscribed(false)
	c.opts.Logger.Info("dapr: subscribed", "topic", topic)
	for {
		msg, err := sub.Receive()
		if err != nil {
			return fmt.Errorf("receive from %s: %w", topic, errors.Join(err, sub.Close()))
		}
		c.metrics.received.Inc()
		if err := handler(msg.RawData); err != nil {
			c.opts.Logger.Warn("dapr: message refused", "topic", topic, "error", err)
		}
		if err := msg.Success(); err != nil {
			return fmt.Errorf("acknowledge on %s: %w", topic, err)
		}
	}
}

func (c *Client) setSubscribed(is bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subscribed = is
	if is {
		c.failure = ""
	}
}
