package intake

import (
	"context"
	"errors"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

const (
	// maxHeld messages of one client may wait for their commit. It is also
	// the receive maximum that MQTT 5 clients are told. At 100 ms a commit,
	// an SD card's bad day, one client can still pass 10 000 a second.
	maxHeld = 1024
	// maxHeldBytes bounds the same by size; one message always fits.
	maxHeldBytes = 1 << 20
	// ackTimeout ends a client that takes no acknowledgements off the wire.
	ackTimeout = 10 * time.Second
)

// errRefused ends a session whose message was not stored.
var errRefused = errors.New("message not stored")

// session is one client's way from a message to its acknowledgement. mochi's
// reader holds room and submits, the committer calls done, and a goroutine of
// its own writes the acknowledgements: the committer never waits for a client.
type session struct {
	client *mqtt.Client
	src    *source
	ctx    context.Context
	cancel context.CancelFunc
	wake   chan struct{} // something for the writer
	room   chan struct{} // something for the reader

	mu    sync.Mutex
	held  int // messages without acknowledgement
	bytes int
	acks  []byte // encoded, ready to be written
	ready int    // messages and bytes that acks stands for
	rsize int
	err   error // why the session ends, once acks are written
	gone  bool  // what was held no longer counts
}

func newSession(ctx context.Context, cl *mqtt.Client, src *source) *session {
	s := &session{client: cl, src: src, wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	s.ctx, s.cancel = context.WithCancel(ctx)
	return s
}

// pending is one message on its way, in one allocation with its reading.
type pending struct {
	reading telemetry.Reading
	session *session
	id      uint16
}

func (p *pending) size() int { return len(p.reading.Topic) + len(p.reading.Payload) }

// hold waits until the message fits into what the client may have in flight. It
// calls full before it waits: a full window is worth a commit.
func (s *session) hold(size int, full func()) error {
	for {
		s.mu.Lock()
		if s.held == 0 || s.held < maxHeld && s.bytes+size <= maxHeldBytes {
			s.held++
			s.bytes += size
			s.mu.Unlock()
			s.src.held.Inc()
			return nil
		}
		s.mu.Unlock()
		full()
		select {
		case <-s.room:
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	}
}

// release gives back what hold took, after the acknowledgement or for want of one.
func (s *session) release(n, size int) {
	s.mu.Lock()
	if !s.gone {
		s.held -= n
		s.bytes -= size
		s.src.held.Sub(float64(n))
	}
	s.mu.Unlock()
	poke(s.room)
}

// done is called by the committer. Nothing is acknowledged behind a message
// that was not stored: the order of acknowledgements is the order of messages.
func (p *pending) done(_ uint64, err error) {
	s := p.session
	if err == nil && p.reading.QoS == 0 {
		s.release(1, p.size())
		return
	}
	s.mu.Lock()
	switch {
	case s.err != nil || s.gone:
	case err != nil:
		s.err = errors.Join(errRefused, err)
	default:
		s.acks = appendAck(s.acks, p.reading.QoS, p.id)
		s.ready++
		s.rsize += p.size()
	}
	s.mu.Unlock()
	poke(s.wake)
}

// appendAck encodes PUBACK or PUBREC with reason code success, which is the
// same four bytes in every version of MQTT.
func appendAck(b []byte, qos byte, id uint16) []byte {
	kind := packets.Puback
	if qos == 2 {
		kind = packets.Pubrec
	}
	return append(b, kind<<4, 2, byte(id>>8), byte(id))
}

func (s *session) fail(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = errors.Join(errRefused, err)
	}
	s.mu.Unlock()
	poke(s.wake)
}

// writeAcks runs until the session ends. One write carries every
// acknowledgement that became ready meanwhile. end is told why it gave up.
func (s *session) writeAcks(end func(error)) {
	var spare []byte
	for {
		select {
		case <-s.wake:
		case <-s.ctx.Done():
			return
		}
		s.mu.Lock()
		acks, n, size, err := s.acks, s.ready, s.rsize, s.err
		s.acks, s.ready, s.rsize = spare[:0], 0, 0
		s.mu.Unlock()
		if len(acks) > 0 {
			if werr := s.write(acks); werr != nil {
				err = werr
			} else {
				s.src.acked.Add(float64(n))
			}
			s.release(n, size)
		}
		spare = acks
		if err != nil {
			end(err)
			return
		}
	}
}

// write shares the client's lock with mochi, which writes PINGRESP and the
// like. mochi's deadline covers the pause between two packets from the client
// and may lie in the past after a long wait for the disk: hence one of our own.
func (s *session) write(acks []byte) error {
	s.client.Lock()
	defer s.client.Unlock()
	if err := s.client.Net.Conn.SetWriteDeadline(time.Now().Add(ackTimeout)); err != nil {
		return err
	}
	_, err := s.client.Net.Conn.Write(acks)
	return err
}

// idle reports whether every message was acknowledged.
func (s *session) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held == 0 || s.err != nil || s.gone
}

// close is for a client that is gone: what it still held is stored or not, but
// nobody is there to be told.
func (s *session) close() {
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	s.src.held.Sub(float64(s.held))
}

// poke wakes who waits on c, which has room for one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
