// Package link is the network between two programs on one machine: a TCP proxy
// that can be cut, silenced, slowed down and healed. Bytes that were on their
// way when it is cut are lost, as they are on a real network.
package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Condition is the state of a link. The zero value is a link that works.
type Condition struct {
	// Down refuses new connections and resets those that exist: a router that
	// answers for a network that is gone.
	Down bool
	// Silent keeps connections open and accepts new ones, but carries nothing
	// and reports nothing: a pulled cable, a half-open connection. What was
	// written meanwhile arrives when the link heals, as TCP would resend it.
	Silent bool
	// BytesPerSecond limits each direction; 0 is no limit.
	BytesPerSecond int
	// Latency is added to each direction.
	Latency time.Duration
	// Resets is the chance, from 0 to 1, that a piece of the stream (at most
	// 64 KiB) is lost with its connection, which is reset: what is left of a
	// lossy network above TCP, when TCP gives up.
	Resets float64
}

// Stats counts what went over a link since it was opened.
type Stats struct {
	Connections int64 // accepted
	Up, Down    int64 // bytes from the client to the target, and back
}

// Link is a proxy to one address. Make it with Listen.
type Link struct {
	target string
	addr   string

	mu      sync.Mutex
	ln      net.Listener // nil while down
	cond    Condition
	changed chan struct{} // closed and replaced by Set
	conns   map[net.Conn]struct{}
	stats   Stats
	closed  bool
	wg      sync.WaitGroup
}

// Listen opens a link on addr (127.0.0.1:0 picks a port) that leads to target.
func Listen(addr, target string) (*Link, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("open link: %w", err)
	}
	l := &Link{
		target: target, addr: ln.Addr().String(), ln: ln,
		changed: make(chan struct{}), conns: map[net.Conn]struct{}{},
	}
	l.wg.Add(1)
	go l.accept(ln)
	return l, nil
}

// Addr is where clients connect.
func (l *Link) Addr() string { return l.addr }

// Stats returns the counts so far.
func (l *Link) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats
}

// Cut is Set(Condition{Down: true}).
func (l *Link) Cut() error { return l.Set(Condition{Down: true}) }

// Heal is Set(Condition{}).
func (l *Link) Heal() error { return l.Set(Condition{}) }

// Set changes the condition, at once and for connections that exist too. It
// fails when the port of a link that was down was taken by someone else.
func (l *Link) Set(c Condition) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errors.New("set link: it is closed")
	}
	l.cond = c
	close(l.changed)
	l.changed = make(chan struct{})
	if c.Down {
		l.reset()
		return nil
	}
	if l.ln != nil {
		return nil
	}
	ln, err := net.Listen("tcp", l.addr)
	if err != nil {
		return fmt.Errorf("heal link: %w", err)
	}
	l.ln = ln
	l.wg.Add(1)
	go l.accept(ln)
	return nil
}

// Flap cuts and heals the link every period until ctx ends, and leaves it
// healed.
func (l *Link) Flap(ctx context.Context, period time.Duration) error {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for down := true; ; down = !down {
		if err := l.Set(Condition{Down: down}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return l.Heal()
		case <-tick.C:
		}
	}
}

// Close ends the link and waits for everything that it runs.
func (l *Link) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		l.reset()
		close(l.changed)
	}
	l.mu.Unlock()
	l.wg.Wait()
	return nil
}

// reset closes the listener and every connection; l.mu is held.
func (l *Link) reset() {
	if l.ln != nil {
		_ = l.ln.Close()
		l.ln = nil
	}
	for c := range l.conns {
		hangUp(c)
		delete(l.conns, c)
	}
}

// hangUp resets the connection instead of ending it in order: what is still in
// the kernel's buffers is thrown away.
func hangUp(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

func (l *Link) accept(ln net.Listener) {
	defer l.wg.Done()
	for {
		client, err := ln.Accept()
		if err != nil {
			return // closed by reset
		}
		l.wg.Add(1)
		go l.serve(client)
	}
}

// serve carries one connection. The target is dialled only while the link
// carries anything, so a silent link hides the server as well.
func (l *Link) serve(client net.Conn) {
	defer l.wg.Done()
	defer hangUp(client)
	if !l.track(client) || !l.pass() {
		return
	}
	defer l.untrack(client)
	server, err := net.DialTimeout("tcp", l.target, 5*time.Second)
	if err != nil {
		return
	}
	defer hangUp(server)
	if !l.track(server) {
		return
	}
	defer l.untrack(server)
	var both sync.WaitGroup
	both.Go(func() { l.carry(server, client, &l.stats.Up) })
	both.Go(func() { l.carry(client, server, &l.stats.Down) })
	both.Wait()
}

// track registers c for the next cut; false when the link is down already.
func (l *Link) track(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.cond.Down {
		return false
	}
	l.conns[c] = struct{}{}
	if c.RemoteAddr().String() != l.target {
		l.stats.Connections++
	}
	return true
}

func (l *Link) untrack(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

// pass waits while the link is silent; false when it was closed.
func (l *Link) pass() bool {
	for {
		l.mu.Lock()
		silent, closed, changed := l.cond.Silent, l.closed, l.changed
		l.mu.Unlock()
		if closed {
			return false
		}
		if !silent {
			return true
		}
		<-changed
	}
}
