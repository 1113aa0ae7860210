package intake

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/listeners"
)

const (
	// connectTimeout is how long a connection may take to say who it is, TLS
	// handshake included.
	connectTimeout = 10 * time.Second
	// maxConnect bounds what a stranger makes the agent allocate: a CONNECT
	// with a client id, a user, a password and a small will.
	maxConnect = 16 << 10
	// acceptPause follows a failed accept, such as one for want of file
	// descriptors, which others give back in time.
	acceptPause = 100 * time.Millisecond
)

var errNotConnect = errors.New("the first packet is not an MQTT CONNECT of at most 16 KiB")

// listener feeds connections to mochi. Its own listeners have no limit of
// connections, no time limit for the CONNECT and end at the first failed accept.
type listener struct {
	net   net.Listener
	slots chan struct{} // one for each connection, also of those who have not said CONNECT
	src   *source
	log   *slog.Logger
	warn  func(message string, attrs ...any)

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	ended bool
}

var _ listeners.Listener = (*listener)(nil)

func newListener(l net.Listener, maxConns int, src *source, log *slog.Logger, warn func(string, ...any)) *listener {
	return &listener{net: l, slots: make(chan struct{}, maxConns), src: src, log: log, warn: warn, conns: make(map[net.Conn]struct{})}
}

// The five below are what mochi asks of a listener.

func (l *listener) ID() string              { return "intake" }
func (l *listener) Protocol() string        { return "tcp" }
func (l *listener) Address() string         { return l.net.Addr().String() }
func (l *listener) Init(*slog.Logger) error { return nil } // it listens already

func (l *listener) Close(closeClients listeners.CloseFn) {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	_ = l.net.Close() // nothing is lost with a listener
	closeClients(l.ID())
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		_ = c.Close() // those who never said CONNECT; mochi closed the others
	}
}

// Serve accepts until Close.
func (l *listener) Serve(establish listeners.EstablishFn) {
	for {
		conn, err := l.net.Accept()
		switch {
		case err == nil:
			l.admit(conn, establish)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			l.warn("mqtt connection not accepted", "error", err)
			time.Sleep(acceptPause)
		}
	}
}

func (l *listener) admit(conn net.Conn, establish listeners.EstablishFn) {
	select {
	case l.slots <- struct{}{}:
	default:
		l.src.ended.WithLabelValues("clients").Inc()
		l.warn("mqtt connection refused: as many as intake.mqtt.max_clients are open", "remote", conn.RemoteAddr().String())
		_ = conn.Close() // refused: there is nothing to be said on it
		return
	}
	if !l.track(conn) {
		_ = conn.Close()
		<-l.slots
		return
	}
	go func() {
		defer func() { <-l.slots }()
		defer l.forget(conn)
		if err := l.serve(conn, establish); err != nil {
			l.log.Debug("mqtt session ended", "remote", conn.RemoteAddr().String(), "error", err)
		}
	}()
}

func (l *listener) serve(conn net.Conn, establish listeners.EstablishFn) error {
	if err := conn.SetDeadline(time.Now().Add(connectTimeout)); err != nil {
		return err
	}
	head, err := readConnectHeader(conn)
	if err != nil {
		return err
	}
	return establish(l.ID(), &prefixed{Conn: conn, head: head})
}

func (l *listener) track(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.conns[conn] = struct{}{}
	return true
}

func (l *listener) forget(conn net.Conn) {
	_ = conn.Close() // mochi closed it already, or it never got that far
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, conn)
}

// readConnectHeader reads the first packet's fixed header, byte by byte so that
// nothing else is taken off the connection.
func readConnectHeader(r io.Reader) ([]byte, error) {
	const connect = 0x10
	var head []byte
	var b [1]byte
	size := 0
	for i := range 5 {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return nil, err
		}
		head = append(head, b[0])
		if i == 0 {
			if b[0] != connect {
				return nil, errNotConnect
			}
			continue
		}
		size |= int(b[0]&0x7f) << (7 * (i - 1))
		if b[0]&0x80 == 0 {
			if size > maxConnect {
				return nil, errNotConnect
			}
			return head, nil
		}
	}
	return nil, errNotConnect
}

// prefixed gives back what was read before the rest.
type prefixed struct {
	net.Conn
	head []byte
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.head) > 0 {
		n := copy(b, p.head)
		p.head = p.head[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}
