// Package drill proves on a live device that what it stores arrives: it stores
// messages under a topic of its own, cuts the device's own uplink for some
// seconds, restarts the agent while they are on its disk alone, and takes the
// cloud's signed receipts as the proof. It can do no harm: a cut ends by itself,
// a restart is one in order, everything else on the device goes on, and it
// refuses where the device has trouble already.
package drill

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

// Prefix begins the topics of drills; the rest is the drill's own.
const Prefix = "holdfast/drill/"

const (
	// MaxMessages bounds one step: a few hundred kilobytes on the card.
	MaxMessages = 5000
	// MaxCut is the longest cut.
	MaxCut = time.Minute
)

// Publisher hands a frame to the sidecar.
type Publisher interface {
	Publish(ctx context.Context, topic string, data []byte) error
}

// ErrCut is what Publish returns during a cut.
var ErrCut = errors.New("the uplink is cut by a drill")

// Gate is a Publisher that can be cut. The zero time never comes: a cut is not
// kept anywhere, and ends with the process at the latest.
type Gate struct {
	Publisher

	mu    sync.Mutex
	until time.Time
}

// Cut fails everything that is published within d, at most MaxCut.
func (g *Gate) Cut(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.until = time.Now().Add(min(d, MaxCut))
}

// Publish passes the frame on, or returns ErrCut.
func (g *Gate) Publish(ctx context.Context, topic string, data []byte) error {
	g.mu.Lock()
	left := time.Until(g.until)
	g.mu.Unlock()
	if left > 0 {
		return fmt.Errorf("%w for %v more", ErrCut, left.Round(time.Second))
	}
	return g.Publisher.Publish(ctx, topic, data)
}

// Store keeps a message and says under which number, as for those of sensors.
type Store interface {
	Submit(ctx context.Context, r *telemetry.Reading, o *telemetry.Oversized, done func(seq uint64, err error)) error
}

// fill stores so many messages under a topic and returns their numbers, once all
// are durable.
func fill(ctx context.Context, s Store, topic string, messages int) (ranges.Set, error) {
	type answer struct {
		seq uint64
		err error
	}
	answers := make(chan answer, messages)
	begin := time.Now().UTC().Format(time.RFC3339Nano)
	for i := range messages {
		payload := fmt.Sprintf(`{"drill":%q,"number":%d,"of":%d,"at":%q}`, strings.TrimPrefix(topic, Prefix), i+1, messages, begin)
		r := &telemetry.Reading{Topic: topic, QoS: 1, Payload: []byte(payload)}
		if err := s.Submit(ctx, r, nil, func(seq uint64, err error) { answers <- answer{seq, err} }); err != nil {
			return nil, fmt.Errorf("store message %d of %d: %w", i+1, messages, err)
		}
	}
	var seqs ranges.Set
	for range messages {
		select {
		case a := <-answers:
			if a.err != nil {
				return nil, fmt.Errorf("store message: %w", a.err)
			}
			seqs = seqs.Add(telemetry.Range{First: a.seq, Last: a.seq})
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return seqs, nil
}

// receipts keeps the newest receipt that speaks of each epoch, as it came.
type receipts struct {
	mu    sync.Mutex
	at    map[telemetry.Epoch]kept
	count uint64
}

type kept struct {
	raw   []byte
	order uint64
}

// maxEpochs bounds what is kept; a drill needs two.
const maxEpochs = 16

// note keeps a receipt that was verified.
func (k *receipts) note(r telemetry.Receipt, raw []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.at == nil {
		k.at = map[telemetry.Epoch]kept{}
	}
	k.count++
	for _, e := range r.Epochs {
		k.at[e.Epoch] = kept{raw, k.count}
	}
	for len(k.at) > maxEpochs {
		var oldest telemetry.Epoch
		for e, v := range k.at {
			if oldest.IsZero() || v.order < k.at[oldest].order {
				oldest = e
			}
		}
		delete(k.at, oldest)
	}
}

func (k *receipts) of(e telemetry.Epoch) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.at[e].raw
}

// covers reports whether a receipt says that the cloud has all of an epoch's
// seqs.
func covers(r telemetry.Receipt, e telemetry.Epoch, seqs ranges.Set) bool {
	for _, x := range r.Epochs {
		if x.Epoch != e {
			continue
		}
		has := ranges.Set(nil).Add(telemetry.Range{First: 1, Last: x.Watermark})
		for _, h := range x.Held {
			has = has.Add(h)
		}
		for _, again := range r.Again {
			if again.Epoch == e {
				has = has.Sub(again.Seqs)
			}
		}
		for _, s := range seqs {
			if !has.Covers(s) {
				return false
			}
		}
		return true
	}
	return false
}
