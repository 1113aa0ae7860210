package intake

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// writeTimeout ends a connection to a broker that takes nothing any more; paho
// has no such limit for acknowledgements and pings.
const writeTimeout = 10 * time.Second

var errPacket = errors.New("malformed MQTT packet from the broker")

// shrinker is a connection to a broker on which a PUBLISH above the limit
// arrives with a stand-in for its payload: paho reads packets whole, MQTT allows
// 256 MiB, and a message that ends the process would be delivered again at each
// start. The stand-in begins with random bytes that no publisher knows.
type shrinker struct {
	net.Conn
	in    *bufio.Reader
	max   int64 // bytes of payload
	mark  [16]byte
	ready []byte // to be read first
	left  int64  // then so many bytes as they are
}

func newShrinker(conn net.Conn, maxPayload int) *shrinker {
	s := &shrinker{Conn: conn, in: bufio.NewReader(conn), max: int64(maxPayload)}
	_, _ = rand.Read(s.mark[:]) // it never fails
	return s
}

// Write gives each write its time.
func (s *shrinker) Write(b []byte) (int, error) {
	if err := s.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return s.Conn.Write(b)
}

// Read reads whole packets' bytes, each as it came or shrunk.
func (s *shrinker) Read(b []byte) (int, error) {
	if len(s.ready) == 0 && s.left == 0 {
		if err := s.next(); err != nil {
			return 0, err
		}
	}
	if len(s.ready) > 0 {
		n := copy(b, s.ready)
		s.ready = s.ready[n:]
		return n, nil
	}
	n, err := s.in.Read(b[:min(int64(len(b)), s.left)])
	s.left -= int64(n)
	return n, err
}

// next takes the head of the next packet, and all of it when it is to shrink.
func (s *shrinker) next() error {
	first, err := s.in.ReadByte()
	if err != nil {
		return err
	}
	size, err := binary.ReadUvarint(s.in) // MQTT's variable integer is a uvarint
	if err != nil {
		return err
	}
	if size > 256<<20 {
		return errPacket
	}
	s.ready, s.left = fixedHeader(first, int64(size)), int64(size)
	const publish = 3
	if first>>4 != publish || s.left <= s.max {
		return nil
	}
	return s.shrink(first)
}

func fixedHeader(first byte, size int64) []byte {
	return binary.AppendUvarint([]byte{first}, uint64(size))
}

func (s *shrinker) shrink(first byte) error {
	head := make([]byte, 2)
	if _, err := io.ReadFull(s.in, head); err != nil {
		return err
	}
	rest := int(binary.BigEndian.Uint16(head)) // the topic
	if first&6 != 0 {
		rest += 2 // the packet id
	}
	payload := s.left - 2 - int64(rest)
	if payload < 0 {
		return errPacket
	}
	head = append(head, make([]byte, rest)...)
	if _, err := io.ReadFull(s.in, head[2:]); err != nil {
		return err
	}
	if payload <= s.max {
		s.ready, s.left = append(s.ready, head...), payload
		return nil
	}
	sum := sha256.New()
	if _, err := io.CopyN(sum, s.in, payload); err != nil {
		return err
	}
	body := append(head, s.mark[:]...)
	body = binary.BigEndian.AppendUint64(body, uint64(payload))
	body = sum.Sum(body)
	s.ready, s.left = append(fixedHeader(first, int64(len(body))), body...), 0
	return nil
}

// oversized returns what a stand-in stands for; nil for an ordinary payload.
func (s *shrinker) oversized(topic string, payload []byte) *telemetry.Oversized {
	rest, is := bytes.CutPrefix(payload, s.mark[:])
	if !is || len(rest) != 8+sha256.Size {
		return nil
	}
	return &telemetry.Oversized{Topic: topic, Size: binary.BigEndian.Uint64(rest), SHA256: [32]byte(rest[8:])}
}
