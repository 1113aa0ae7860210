// Package hostile sends what a broken or malicious network sends: frames damaged
// in every way, at a rate of its own. Tests and the benchmark use it to see that
// none of it harms a good frame.
package hostile

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Events returns bodies that carry no good frame: good cut short everywhere and
// with a bit flipped everywhere, frames that somebody else signed, of the agent
// given and of agents that nobody knows, noise, and events without a frame. good
// is a small frame; none of the bodies is one.
func Events(agent string, good []byte) ([][]byte, error) {
	_, forger, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for i := range good {
		flipped := bytes.Clone(good)
		flipped[i] ^= 1 << (i % 8)
		out = append(out, event(good[:i]), event(flipped))
	}
	for i, name := range []string{agent, "nobody-1", agent, "nobody-2"} {
		for _, payload := range []int{1, 100, 60_000} {
			f, err := forged(name, uint64(1+1000*i), payload, forger)
			if err != nil {
				return nil, err
			}
			out = append(out, event(f))
		}
	}
	return append(out, event(nil), event([]byte("noise")), event(bytes.Repeat([]byte{0xff}, 100_000)),
		[]byte(`{"data_base64":"!"}`), []byte(`{"data":{"a":1}}`), []byte(`{"data_base64":`), []byte("\x00"), nil), nil
}

func forged(agent string, seq uint64, payload int, key ed25519.PrivateKey) ([]byte, error) {
	e := telemetry.Epoch{Ordinal: 1, ID: [8]byte{0x66}}
	return telemetry.EncodeFrame(telemetry.Header{Agent: agent, Epoch: e, First: seq, Last: seq, OpenTotal: 1, Open: []telemetry.OpenEpoch{{Epoch: e, Lowest: 1, Durable: seq}}},
		[]telemetry.Record{{Seq: seq, Kind: telemetry.KindReading, Reading: &telemetry.Reading{Topic: "forged", Payload: make([]byte, payload)}}}, key)
}

// event wraps a frame as the sidecar does.
func event(frame []byte) []byte {
	return fmt.Appendf(nil, `{"id":"1","specversion":"1.0","type":"com.dapr.event.sent","datacontenttype":"application/octet-stream","data_base64":"%s"}`,
		base64.StdEncoding.EncodeToString(frame))
}

// connections is how many carry a flood, and beat how often each sends what is due.
const (
	connections = 4
	beat        = 10 * time.Millisecond
)

// Flood is how a flood went.
type Flood struct {
	Sent, Taken int64         // events, and those answered with 200
	Took        time.Duration // from the first to the last answer
}

// Rate is how many events a second were answered with 200.
func (f Flood) Rate() float64 { return float64(f.Taken) / f.Took.Seconds() }

// Send posts n of the events to the address of an app listener, so many a second
// whatever is answered when: what was late is made up for. It returns when all of
// them are answered. Requests are pipelined, so that sending costs little beside
// taking.
func Send(ctx context.Context, address string, events [][]byte, rate, n int) (Flood, error) {
	var f Flood
	var taken atomic.Int64
	start := time.Now()
	var all sync.WaitGroup
	errs := make([]error, connections)
	for i := range connections {
		share := n/connections + min(1, max(0, n%connections-i))
		all.Go(func() {
			errs[i] = flood(ctx, address, events[i%len(events):], float64(rate)/connections, share, &taken)
		})
		f.Sent += int64(share)
	}
	all.Wait()
	f.Taken, f.Took = taken.Load(), time.Since(start)
	return f, errors.Join(errs...)
}

// flood is one connection of Send.
func flood(ctx context.Context, address string, events [][]byte, rate float64, n int, taken *atomic.Int64) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	read := make(chan error, 1)
	go func() { read <- answers(c, n, taken) }()
	if err := send(c, address, events, rate, n); err != nil {
		_ = c.Close() // ends the reader
		return errors.Join(err, <-read)
	}
	return <-read
}

func send(c net.Conn, address string, events [][]byte, rate float64, n int) error {
	start := time.Now()
	for t, sent := time.NewTicker(beat), 0; ; <-t.C {
		var b []byte
		for due := min(n, int(time.Since(start).Seconds()*rate)+1); sent < due; sent++ {
			body := events[sent%len(events)]
			b = fmt.Appendf(b, "POST /ingest/live HTTP/1.1\r\nHost: %s\r\nContent-Type: application/cloudevents+json\r\nContent-Length: %d\r\n\r\n%s", address, len(body), body)
		}
		if _, err := c.Write(b); err != nil || sent == n {
			t.Stop()
			return err
		}
	}
}

func answers(c net.Conn, n int, taken *atomic.Int64) error {
	r := bufio.NewReader(c)
	for i := range n {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return fmt.Errorf("answer %d of %d: %w", i+1, n, err)
		}
		_, err = io.Copy(io.Discard, resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			return err
		}
		if resp.StatusCode == http.StatusOK {
			taken.Add(1)
		}
	}
	return nil
}
