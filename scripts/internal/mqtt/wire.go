package mqtt

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The packet types of MQTT 3.1.1 that a publisher meets.
const (
	typeConnect    = 1
	typeConnack    = 2
	typePublish    = 3
	typePuback     = 4
	typePingreq    = 12
	typePingresp   = 13
	typeDisconnect = 14
)

// maxAnswer bounds what a server may send to a client that never subscribes:
// its packets are at most four bytes.
const maxAnswer = 1 << 10

// ErrProtocol is returned when the other end says something that is not MQTT
// 3.1.1, or not to a publisher.
var ErrProtocol = errors.New("mqtt: protocol error")

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

func appendHeader(b []byte, first byte, length int) []byte {
	b = append(b, first)
	for {
		digit := byte(length % 128)
		length /= 128
		if length == 0 {
			return append(b, digit)
		}
		b = append(b, digit|0x80)
	}
}

// appendConnect asks for a session that survives the connection, so that what
// is sent again may carry the DUP flag.
func appendConnect(b []byte, o Options) []byte {
	var flags byte
	body := appendString(nil, "MQTT")
	if o.Username != "" {
		flags |= 0x80 | 0x40
	}
	body = append(body, 4, flags) // protocol level 4 is MQTT 3.1.1
	body = binary.BigEndian.AppendUint16(body, uint16(keepAlive.Seconds()))
	body = appendString(body, o.ClientID)
	if o.Username != "" {
		body = appendString(appendString(body, o.Username), o.Password)
	}
	return append(appendHeader(b, typeConnect<<4, len(body)), body...)
}

// appendPublish encodes a message at QoS 1.
func appendPublish(b []byte, topic string, payload []byte, id uint16, dup bool) []byte {
	first := byte(typePublish<<4 | 1<<1)
	if dup {
		first |= 1 << 3
	}
	b = appendHeader(b, first, 2+len(topic)+2+len(payload))
	b = appendString(b, topic)
	b = binary.BigEndian.AppendUint16(b, id)
	return append(b, payload...)
}

// readPacket reads one packet that is not longer than maxAnswer.
func readPacket(r *bufio.Reader) (kind byte, body []byte, err error) {
	first, err := r.ReadByte()
	if err != nil {
		return 0, nil, err
	}
	length, err := binary.ReadUvarint(r) // the same encoding
	if err != nil {
		return 0, nil, err
	}
	if length > maxAnswer {
		return 0, nil, fmt.Errorf("%w: a packet of %d bytes", ErrProtocol, length)
	}
	body = make([]byte, length)
	_, err = io.ReadFull(r, body)
	return first >> 4, body, err
}

// readConnack returns nil when the server accepted the connection.
func readConnack(r *bufio.Reader) error {
	kind, body, err := readPacket(r)
	if err != nil {
		return fmt.Errorf("await connack: %w", err)
	}
	if kind != typeConnack || len(body) != 2 {
		return fmt.Errorf("%w: packet type %d instead of CONNACK", ErrProtocol, kind)
	}
	if body[1] != 0 {
		return fmt.Errorf("mqtt: the server refused the connection, code %d", body[1])
	}
	return nil
}
