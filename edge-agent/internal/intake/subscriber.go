package intake

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/retry"
)

const (
	brokerKeepAlive   = 30 * time.Second
	brokerPingTimeout = 15 * time.Second
	// brokerTimeout is for the connection, its handshake and the answer to the
	// subscription, each.
	brokerTimeout = 20 * time.Second
	firstRetry    = time.Second
	lastRetry     = 30 * time.Second
	// goodSession is how long one must have lasted for the wait to start over.
	goodSession = time.Minute
	// partTimeout is for the DISCONNECT to go out.
	partTimeout = 500 // milliseconds
)

var errFilter = errors.New("the broker refuses a filter")

// SubscriberOptions is what a Subscriber needs. URL, ClientID, Filters, Store,
// Logger and Metrics must be set.
type SubscriberOptions struct {
	URL        string // mqtt://host:1883 or mqtts://host:8883
	ClientID   string // fixed: the broker keeps the session under it
	Filters    []string
	Username   string
	Password   string
	TLS        *tls.Config // for mqtts; nil: the system's roots
	MaxPayload int         // bytes; a larger message is acknowledged and becomes a loss record
	Retained   bool        // store what the broker replays
	Store      Store
	Logger     *slog.Logger
	Metrics    *Metrics
}

// Subscriber takes messages from a broker in front of the agent, with MQTT
// 3.1.1 and QoS 1 in a session that the broker keeps. What is unacknowledged
// when a connection breaks comes again.
type Subscriber struct {
	opts   SubscriberOptions
	src    source
	warner warner
	state  atomic.Pointer[SubscriberState]
}

// SubscriberState is what the status page shows.
type SubscriberState struct {
	Connected bool
	Error     string // why not
}

// NewSubscriber connects to nothing before Run.
func NewSubscriber(o SubscriberOptions) *Subscriber {
	s := &Subscriber{opts: o, src: o.Metrics.source("broker"), warner: warner{log: o.Logger}}
	s.state.Store(&SubscriberState{Error: "not connected yet"})
	return s
}

// State returns how the last connection fares.
func (s *Subscriber) State() SubscriberState { return *s.state.Load() }

// Run connects, and again whenever the connection ends, with a wait that grows
// to 30 s. It returns nil when ctx ends, after what it took is acknowledged or
// 5 s.
func (s *Subscriber) Run(ctx context.Context) error {
	pause := retry.Pause{First: firstRetry, Last: lastRetry}
	for ctx.Err() == nil {
		start := time.Now()
		err := s.runOnce(ctx)
		s.src.connected.Set(0)
		if ctx.Err() != nil {
			break
		}
		s.state.Store(&SubscriberState{Error: err.Error()})
		if time.Since(start) > goodSession {
			pause.Reset()
		}
		s.opts.Logger.Warn("mqtt broker: retrying", "url", s.opts.URL, "wait", pause.Next().String(), "error", err)
		pause.Sleep(ctx)
	}
	return nil
}

// runOnce is one connection. paho's own reconnecting is not used: its client
// remembers messages across connections that the broker sends again anyhow.
func (s *Subscriber) runOnce(ctx context.Context) error {
	d := newDelivery(s)
	go d.ackAll()
	client := mqtt.NewClient(s.clientOptions(d))
	defer func() {
		d.close()
		client.Disconnect(partTimeout) // frees ackAll too, should paho have it blocked
		<-d.silent
	}()
	if err := await(ctx, client.Connect()); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if err := s.subscribe(ctx, client); err != nil {
		return err
	}
	s.opts.Logger.Info("mqtt broker: subscribed", "url", s.opts.URL, "filters", len(s.opts.Filters))
	s.state.Store(&SubscriberState{Connected: true})
	s.src.connected.Set(1)
	select {
	case err := <-d.broken:
		return err
	case <-ctx.Done():
		d.drain()
		return ctx.Err()
	}
}

// await bounds the wait for a token by ctx and by brokerTimeout.
func await(ctx context.Context, token mqtt.Token) error {
	t := time.NewTimer(2 * brokerTimeout) // for dialling and then for CONNACK
	defer t.Stop()
	select {
	case <-token.Done():
		return token.Error()
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return errors.New("no answer")
	}
}

func (s *Subscriber) subscribe(ctx context.Context, client mqtt.Client) error {
	filters := make(map[string]byte)
	for _, f := range s.opts.Filters {
		filters[f] = 1
	}
	token := client.SubscribeMultiple(filters, nil)
	if err := await(ctx, token); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	for filter, code := range token.(*mqtt.SubscribeToken).Result() {
		if code > 2 {
			return fmt.Errorf("%w: %s (may user %q read it?)", errFilter, filter, s.opts.Username)
		}
	}
	return nil
}

func (s *Subscriber) clientOptions(d *delivery) *mqtt.ClientOptions {
	o := mqtt.NewClientOptions().AddBroker(s.opts.URL).
		SetProtocolVersion(4).
		SetClientID(s.opts.ClientID).
		SetCleanSession(false).
		SetUsername(s.opts.Username).
		SetPassword(s.opts.Password).
		SetKeepAlive(brokerKeepAlive).
		SetPingTimeout(brokerPingTimeout).
		SetConnectTimeout(brokerTimeout).
		SetAutoReconnect(false).
		SetAutoAckDisabled(true).
		SetOrderMatters(true).
		SetStore(noStore{}).
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { d.take(m) }).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { d.end(err) })
	return o.SetCustomOpenConnectionFn(func(u *url.URL, _ mqtt.ClientOptions) (net.Conn, error) {
		conn, err := s.dial(u)
		if err != nil {
			return nil, err
		}
		d.wire = newShrinker(conn, s.opts.MaxPayload)
		return d.wire, nil
	})
}

func (s *Subscriber) dial(u *url.URL) (net.Conn, error) {
	secure := u.Scheme == "mqtts" || u.Scheme == "ssl"
	address := u.Host
	if u.Port() == "" {
		port := "1883"
		if secure {
			port = "8883"
		}
		address = net.JoinHostPort(strings.Trim(u.Host, "[]"), port)
	}
	dialer := &net.Dialer{Timeout: brokerTimeout}
	if !secure {
		return dialer.Dial("tcp", address)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.opts.TLS != nil {
		config = s.opts.TLS.Clone()
	}
	return tls.DialWithDialer(dialer, "tcp", address, config)
}

// noStore keeps nothing: the outbox does, and the broker keeps the rest.
type noStore struct{}

func (noStore) Open()                             {}
func (noStore) Put(string, packets.ControlPacket) {}
func (noStore) Get(string) packets.ControlPacket  { return nil }
func (noStore) All() []string                     { return nil }
func (noStore) Del(string)                        {}
func (noStore) Close()                            {}
func (noStore) Reset()                            {}
