package intake

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// delivery is what came over one connection to the broker. Acknowledgements go
// out in the order in which messages came, as MQTT demands, also for those that
// are not stored. How many wait is bounded by the broker's in-flight window and
// by the store's queue.
type delivery struct {
	s      *Subscriber
	wire   *shrinker
	ctx    context.Context
	cancel context.CancelFunc
	broken chan error // why the connection is to end; room for one
	wake   chan struct{}
	silent chan struct{} // closed when ackAll is through

	mu       sync.Mutex
	queue    []*arrival // in the order of arrival
	stopping bool
}

// arrival is one message that waits for its acknowledgement.
type arrival struct {
	d       *delivery
	message mqtt.Message
	reading telemetry.Reading
	done    bool
}

func newDelivery(s *Subscriber) *delivery {
	d := &delivery{s: s, broken: make(chan error, 1), wake: make(chan struct{}, 1), silent: make(chan struct{})}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// end says why the connection is to end; the first reason counts.
func (d *delivery) end(err error) {
	if err == nil {
		err = errors.New("connection lost")
	}
	select {
	case d.broken <- err:
	default:
	}
}

func (d *delivery) close() {
	d.cancel()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopping = true
	d.s.src.held.Sub(float64(len(d.queue)))
	d.queue = nil
}

// take runs in paho's only dispatcher. It blocks while the store's queue is
// full, and with it the connection: there is no other way to slow QoS 0 down.
func (d *delivery) take(m mqtt.Message) {
	a := &arrival{d: d, message: m}
	if !d.push(a) {
		return // not stored, not acknowledged: it comes again
	}
	if m.Retained() && !d.s.opts.Retained {
		d.s.src.skipped.Inc()
		a.settle(0, nil)
		return
	}
	topic := cleanTopic(m.Topic())
	var err error
	if large := d.wire.oversized(topic, m.Payload()); large != nil {
		d.s.src.oversized.Inc()
		d.s.warner.warn("mqtt broker: message above intake.max_payload became a loss record", "bytes", large.Size)
		err = d.s.opts.Store.Submit(d.ctx, nil, large, a.settle)
	} else {
		a.reading = telemetry.Reading{Topic: topic, QoS: m.Qos(), Dup: m.Duplicate(), Retained: m.Retained(), Payload: m.Payload()}
		d.s.src.count(&a.reading)
		err = d.s.opts.Store.Submit(d.ctx, &a.reading, nil, a.settle)
	}
	if err != nil {
		d.end(errors.Join(errRefused, err))
	}
}

// cleanTopic makes of a topic that MQTT forbids one that can be stored: brokers
// do not always check.
func cleanTopic(topic string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(topic, "?"), "\x00", "?")
}

func (d *delivery) push(a *arrival) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopping {
		return false
	}
	d.queue = append(d.queue, a)
	d.s.src.held.Inc()
	return true
}

// settle is called by the committer.
func (a *arrival) settle(_ uint64, err error) {
	d := a.d
	if err != nil {
		d.s.src.ended.WithLabelValues("store").Inc()
		d.end(errors.Join(errRefused, err))
		return
	}
	d.mu.Lock()
	a.done = true
	first := len(d.queue) > 0 && d.queue[0] == a
	d.mu.Unlock()
	if first {
		poke(d.wake)
	}
}

// ackAll writes acknowledgements until the delivery is closed. It is a goroutine
// of its own since paho may block in it, and the committer must not.
func (d *delivery) ackAll() {
	defer close(d.silent)
	for {
		for a := d.first(); a != nil; a = d.first() {
			a.message.Ack()
			d.s.src.acked.Inc()
			d.pop(a)
		}
		select {
		case <-d.wake:
		case <-d.ctx.Done():
			return
		}
	}
}

// first returns the first message if it is ready to be acknowledged.
func (d *delivery) first() *arrival {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.queue) == 0 || !d.queue[0].done {
		return nil
	}
	return d.queue[0]
}

// pop removes it once it is acknowledged, so that drain waits for that.
func (d *delivery) pop(a *arrival) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.queue) == 0 || d.queue[0] != a {
		return // closed meanwhile
	}
	d.queue[0] = nil
	d.queue = d.queue[1:]
	d.s.src.held.Dec()
}

// drain takes nothing more and waits until what was taken is acknowledged.
func (d *delivery) drain() {
	d.mu.Lock()
	d.stopping = true
	d.mu.Unlock()
	for deadline := time.Now().Add(drainTimeout); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		d.mu.Lock()
		n := len(d.queue)
		d.mu.Unlock()
		if n == 0 {
			return
		}
	}
}
