// Package mqtt is a publisher that can be believed: a message counts as
// acknowledged only when its PUBACK was read from the network and parsed. What
// was not acknowledged when a connection ended is sent again, in order and with
// the DUP flag, on the next one. It publishes at QoS 1 and does nothing else.
package mqtt

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

const (
	// keepAlive is asked of the server; a ping every half of it keeps an idle
	// connection, and silence for twice as long ends it.
	keepAlive = 10 * time.Second
	// retryMin and retryMax bound the wait between two connections: short,
	// because a test waits for it.
	retryMin = 50 * time.Millisecond
	retryMax = time.Second
	// defaultWindow is enough for 1000 messages/s at 100 ms a commit.
	defaultWindow = 100
)

// Message is one publication.
type Message struct {
	Topic   string
	Payload []byte
	Number  uint64    // the caller's own
	Due     time.Time // it is not sent before this moment
}

// Options say where to publish and whom to tell. The functions are called from
// two goroutines, but never at the same time for one message.
type Options struct {
	Addr               string
	ClientID           string
	Username, Password string // sent when Username is set
	Window             int    // unacknowledged messages at a time; 0: 100

	Next  func() (Message, bool)         // the next message; false: there is none any more
	Sent  func(m Message, again bool)    // it is about to be written; again: not for the first time
	Acked func(m Message, now time.Time) // its PUBACK was parsed
	Lost  func(err error)                // a connection ended or could not be made; may be nil
}

// Publisher publishes what Options.Next returns. Make it with New.
type Publisher struct {
	o       Options
	pending *Message // taken from Next, not sent yet

	mu     sync.Mutex
	flight []*entry // in the order of their first sending
	byID   map[uint16]*entry
	lastID uint16

	acked chan struct{} // capacity 1: the window has room again
}

type entry struct {
	id    uint16
	msg   Message
	acked bool
}

// New returns a publisher that Run starts.
func New(o Options) *Publisher {
	if o.Window == 0 {
		o.Window = defaultWindow
	}
	if o.Lost == nil {
		o.Lost = func(error) {}
	}
	return &Publisher{o: o, byID: map[uint16]*entry{}, acked: make(chan struct{}, 1)}
}

// Run publishes until Next says that there is no more and everything sent was
// acknowledged; then it returns nil. It reconnects for ever, and returns ctx's
// error when that ends first.
func (p *Publisher) Run(ctx context.Context) error {
	wait := retryMin
	for {
		connected, err := p.session(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.o.Lost(err)
		if connected {
			wait = retryMin
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait/2 + rand.N(wait/2)):
		}
		wait = min(2*wait, retryMax)
	}
}

// InFlight returns how many messages wait for their PUBACK.
func (p *Publisher) InFlight() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.flight)
}

// session is one connection. It returns nil when there is nothing left to do.
func (p *Publisher) session(ctx context.Context) (connected bool, err error) {
	conn, r, err := p.connect(ctx)
	if err != nil {
		return false, err
	}
	sessionCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// The writer may be blocked in a write, and the reader in a read: the end
	// of either, or of ctx, closes the connection under both.
	defer context.AfterFunc(sessionCtx, func() { _ = conn.Close() })()
	var reader sync.WaitGroup
	reader.Go(func() { cancel(p.read(conn, r)) })
	err = p.write(sessionCtx, conn)
	if err == nil {
		_, _ = conn.Write([]byte{typeDisconnect << 4, 0}) // a courtesy
	}
	cancel(err)
	_ = conn.Close()
	reader.Wait()
	if err != nil {
		return true, errors.Join(context.Cause(sessionCtx), err)
	}
	return true, nil
}

func (p *Publisher) connect(ctx context.Context) (net.Conn, *bufio.Reader, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", p.o.Addr)
	if err != nil {
		return nil, nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(keepAlive))
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	r := bufio.NewReader(conn)
	if _, err = conn.Write(appendConnect(nil, p.o)); err == nil {
		err = readConnack(r)
	}
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	_ = conn.SetDeadline(time.Time{})
	return conn, r, nil
}

// read takes PUBACKs until the connection ends.
func (p *Publisher) read(conn net.Conn, r *bufio.Reader) error {
	for {
		_ = conn.SetReadDeadline(time.Now().Add(2 * keepAlive))
		kind, body, err := readPacket(r)
		if err != nil {
			return err
		}
		switch {
		case kind == typePuback && len(body) == 2:
			p.acknowledge(binary.BigEndian.Uint16(body))
		case kind == typePingresp:
		default:
			return fmt.Errorf("%w: packet type %d of %d bytes", ErrProtocol, kind, len(body))
		}
	}
}

func (p *Publisher) acknowledge(id uint16) {
	now := time.Now()
	p.mu.Lock()
	e := p.byID[id]
	if e == nil { // a second PUBACK after a resend
		p.mu.Unlock()
		return
	}
	delete(p.byID, id)
	e.acked = true
	for len(p.flight) > 0 && p.flight[0].acked {
		p.flight = p.flight[1:]
	}
	p.mu.Unlock()
	p.o.Acked(e.msg, now)
	select {
	case p.acked <- struct{}{}:
	default:
	}
}

// write sends again what is in flight, then what is due. It returns nil when
// Next has no more and everything was acknowledged.
func (p *Publisher) write(ctx context.Context, conn net.Conn) error {
	w := bufio.NewWriterSize(conn, 64<<10)
	var buf []byte
	for _, e := range p.unacknowledged() {
		p.o.Sent(e.msg, true)
		buf = appendPublish(buf[:0], e.msg.Topic, e.msg.Payload, e.id, true)
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
	for {
		m, more := p.peek()
		if !more && p.InFlight() == 0 {
			return nil
		}
		ready := more && p.InFlight() < p.o.Window
		if wait := time.Until(m.Due); !ready || wait > 0 {
			if err := p.idle(ctx, conn, w, ready, wait); err != nil {
				return err
			}
			continue
		}
		e := p.take()
		p.o.Sent(e.msg, false)
		buf = appendPublish(buf[:0], e.msg.Topic, e.msg.Payload, e.id, false)
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
}

// idle flushes what was written and waits: until the next message is due, or
// when the window is full or nothing is left, for an acknowledgement.
func (p *Publisher) idle(ctx context.Context, conn net.Conn, w *bufio.Writer, timed bool, wait time.Duration) error {
	if err := w.Flush(); err != nil {
		return err
	}
	ping := time.NewTimer(keepAlive / 2)
	defer ping.Stop()
	var due <-chan time.Time
	if timed {
		t := time.NewTimer(wait)
		defer t.Stop()
		due = t.C
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-due:
		return nil
	case <-p.acked:
		return nil
	case <-ping.C:
		_, err := conn.Write([]byte{typePingreq << 4, 0})
		return err
	}
}

// peek returns the next message without sending it.
func (p *Publisher) peek() (Message, bool) {
	if p.pending == nil {
		m, ok := p.o.Next()
		if !ok {
			return Message{}, false
		}
		p.pending = &m
	}
	return *p.pending, true
}

// take puts the pending message in flight under a free packet id.
func (p *Publisher) take() *entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		p.lastID++
		if _, used := p.byID[p.lastID]; p.lastID != 0 && !used {
			break
		}
	}
	e := &entry{id: p.lastID, msg: *p.pending}
	p.pending = nil
	p.byID[e.id] = e
	p.flight = append(p.flight, e)
	return e
}

func (p *Publisher) unacknowledged() []*entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []*entry
	for _, e := range p.flight {
		if !e.acked {
			list = append(list, e)
		}
	}
	return list
}
