package intake

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

const (
	// maxIdle is how long a client that asks for no keepalive, or for a very
	// long one, may say nothing before it counts as gone (half as long again,
	// as MQTT has it). TCP keepalive finds dead peers much earlier.
	maxIdle = 12 * 60 * 60 // seconds
	// keptSessions of clients that went away are remembered for the session
	// present flag of their CONNACK; there is nothing else to remember.
	keptSessions = 1024
	keptFor      = 24 * 60 * 60 // seconds
	// drainTimeout is how long Run waits, once told to stop, until what it
	// took in is durable and acknowledged.
	drainTimeout = 5 * time.Second
)

// ServerOptions is what a Server needs. Address, Store, Logger and Metrics must
// be set.
type ServerOptions struct {
	Address    string
	MaxPayload int         // bytes; a larger packet ends the session
	MaxClients int         // connections; 0 means 256
	Users      *Users      // nil: everybody may publish
	TLS        *tls.Config // nil: plain TCP
	Store      Store
	Logger     *slog.Logger
	Metrics    *Metrics
}

// Server is an MQTT broker (3.1, 3.1.1 and 5) that stores what it is sent. It
// is no broker for subscribers: it refuses subscriptions, and keeps nothing for
// RETAIN.
type Server struct {
	opts   ServerOptions
	src    source
	broker *mqtt.Server
	listen *listener
	warner warner

	ctx    context.Context // of every session; ends after the drain
	cancel context.CancelFunc

	mu       sync.RWMutex
	sessions map[*mqtt.Client]*session
	stopping bool
}

// Listen opens the address, so that a port in use is an error here, and serves
// once Run is called.
func Listen(o ServerOptions) (*Server, error) {
	if o.MaxClients == 0 {
		o.MaxClients = 256
	}
	l, err := net.Listen("tcp", o.Address)
	if err != nil {
		return nil, fmt.Errorf("listen for MQTT on %s (is another broker running there? set intake.mqtt.listen to a free port, "+
			"or subscribe to that broker with intake.mqtt.broker.url): %w", o.Address, err)
	}
	if o.TLS != nil {
		l = tls.NewListener(l, o.TLS)
	}
	s := &Server{
		opts: o, src: o.Metrics.source("listener"), sessions: make(map[*mqtt.Client]*session), warner: warner{log: o.Logger},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.broker = mqtt.New(&mqtt.Options{
		Capabilities:           s.capabilities(),
		Logger:                 quietLogger(o.Logger),
		SysTopicResendInterval: math.MaxInt32, // nobody can read $SYS
	})
	s.listen = newListener(l, o.MaxClients, &s.src, o.Logger, s.warner.warn)
	err = errors.Join(s.broker.AddHook(&hook{server: s}, nil), s.broker.AddListener(s.listen))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare MQTT listener: %w", err), l.Close())
	}
	return s, nil
}

func (s *Server) capabilities() *mqtt.Capabilities {
	c := mqtt.NewDefaultServerCapabilities()
	c.MaximumClients = int64(s.opts.MaxClients)
	c.MaximumClientWritesPending = 1 // of messages to subscribers, and there are none
	c.MaximumPacketSize = s.maxPacket()
	c.MaximumSessionExpiryInterval = keptFor
	c.ReceiveMaximum = maxHeld
	c.TopicAliasMaximum = 0
	c.SharedSubAvailable = 0
	return c
}

// maxPacket is the largest payload with the longest topic and some properties.
func (s *Server) maxPacket() uint32 { return uint32(s.opts.MaxPayload) + 65535 + 4096 }

// Addr returns the address that it listens on.
func (s *Server) Addr() net.Addr { return s.listen.net.Addr() }

// Sessions returns how many clients are connected.
func (s *Server) Sessions() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.sessions)
}

// Run serves until ctx ends. It then takes nothing more, waits up to 5 s until
// what it took is acknowledged, and closes every session.
func (s *Server) Run(ctx context.Context) error {
	defer s.cancel()
	if err := s.broker.Serve(); err != nil {
		return fmt.Errorf("serve MQTT: %w", err)
	}
	s.opts.Logger.Info("mqtt listening", "address", s.Addr().String(), "tls", s.opts.TLS != nil, "users", s.opts.Users != nil)
	<-ctx.Done()
	s.drain()
	s.cancel()
	return s.broker.Close()
}

// Close releases the address of a Server that never ran.
func (s *Server) Close() error { return s.listen.net.Close() }

func (s *Server) drain() {
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	deadline := time.Now().Add(drainTimeout)
	for !s.idle() && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
}

func (s *Server) idle() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, session := range s.sessions {
		if !session.idle() {
			return false
		}
	}
	return true
}

// session returns nil for a client that may not publish (any more).
func (s *Server) session(cl *mqtt.Client) *session {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.stopping {
		return nil
	}
	return s.sessions[cl]
}

func (s *Server) begin(cl *mqtt.Client) {
	session := newSession(s.ctx, cl, &s.src)
	s.mu.Lock()
	s.sessions[cl] = session
	s.mu.Unlock()
	s.src.sessions.Inc()
	go session.writeAcks(func(err error) { s.end(cl, err) })
	s.forgetOldest()
}

func (s *Server) finish(cl *mqtt.Client) {
	s.mu.Lock()
	session := s.sessions[cl]
	delete(s.sessions, cl)
	s.mu.Unlock()
	session.close()
	s.src.sessions.Dec()
}

// end says why where MQTT 5 can, and closes the connection.
func (s *Server) end(cl *mqtt.Client, err error) {
	s.src.ended.WithLabelValues("store").Inc()
	s.warner.warn("mqtt session ended without acknowledgement", "client", shortID(cl.ID), "remote", cl.Net.Remote, "error", err)
	if cl.Properties.ProtocolVersion < 5 {
		cl.Stop(err)
		return
	}
	_ = s.broker.DisconnectClient(cl, packets.ErrQuotaExceeded) // it returns the code it was given
}

// forgetOldest bounds the sessions that mochi remembers of clients that are
// gone: devices with a new client id at each start would fill the memory.
func (s *Server) forgetOldest() {
	if s.broker.Clients.Len() <= keptSessions+s.opts.MaxClients {
		return
	}
	oldest, at := "", int64(math.MaxInt64)
	for id, cl := range s.broker.Clients.GetAll() {
		if t := cl.StopTime(); t != 0 && t < at {
			oldest, at = id, t
		}
	}
	s.broker.Clients.Delete(oldest)
}

func (s *Server) isStopping() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.stopping
}

func (s *Server) flush() {
	if f, ok := s.opts.Store.(flusher); ok {
		f.Flush()
	}
}
