package sensors

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/mqtt"
)

// Log is told what happened to each message. Its methods are called by many
// goroutines at a time.
type Log interface {
	// Published: it is about to be written to the network; again says that it
	// was before, on an earlier connection.
	Published(sensor int, number uint64, again bool)
	// Acknowledged: its PUBACK was parsed, after this long since it was due.
	Acknowledged(sensor int, number uint64, took time.Duration)
}

// Fleet publishes. Its fields must not change while it runs.
type Fleet struct {
	Shape
	Addr    string        // of the MQTT listener
	Sensors int           // connections
	Rate    float64       // messages a second, of all sensors together
	For     time.Duration // how long messages become due; 0: until Stop
	Window  int           // unacknowledged messages a sensor; 0: the publisher's default
	Log     Log

	Username, Password string // when the listener asks for them

	start      time.Time
	stop       chan struct{}
	stopped    atomic.Int64 // when stop was found closed, in nanoseconds of Unix; 0: not yet
	reconnects atomic.Int64
}

// Run publishes on schedule until For is over or stop is closed, what was due by
// then included however late it is, and waits until all of it was acknowledged. It returns ctx's error when that ends
// first: some messages are then without an answer.
func (f *Fleet) Run(ctx context.Context, stop chan struct{}) error {
	f.start, f.stop = time.Now(), stop
	f.stopped.Store(0)
	errs := make([]error, f.Sensors)
	var all sync.WaitGroup
	for i := range f.Sensors {
		all.Go(func() { errs[i] = f.sensor(i).Run(ctx) })
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return fmt.Errorf("publish: %w", errors.Join(errs...))
		}
	}
	return nil
}

// Start returns when the first messages were due.
func (f *Fleet) Start() time.Time { return f.start }

// Due returns when a message was to be sent. It is known only after Run began.
func (f *Fleet) Due(sensor int, number uint64) time.Time {
	interval := float64(time.Second) * float64(f.Sensors) / f.Rate
	// Sensors start evenly spread over the first interval, not all at once.
	offset := interval * float64(sensor) / float64(f.Sensors)
	return f.start.Add(time.Duration(offset + interval*float64(number)))
}

// Expected returns how many messages the whole fleet owes after the time For.
func (f *Fleet) Expected() uint64 { return uint64(f.Rate * f.For.Seconds()) }

// Reconnects returns how often a connection ended or could not be made.
func (f *Fleet) Reconnects() int64 { return f.reconnects.Load() }

func (f *Fleet) sensor(i int) *mqtt.Publisher {
	var number uint64
	return mqtt.New(mqtt.Options{
		Addr:     f.Addr,
		ClientID: fmt.Sprintf("%s-s-%03d", f.Prefix, i),
		Username: f.Username,
		Password: f.Password,
		Window:   f.Window,
		Next: func() (mqtt.Message, bool) {
			due := f.Due(i, number)
			if f.over(due) {
				return mqtt.Message{}, false
			}
			number++
			return mqtt.Message{Topic: f.Topic(i), Payload: f.Payload(i, number-1), Number: number - 1, Due: due}, true
		},
		Sent:  func(m mqtt.Message, again bool) { f.Log.Published(i, m.Number, again) },
		Acked: func(m mqtt.Message, now time.Time) { f.Log.Acknowledged(i, m.Number, now.Sub(m.Due)) },
		Lost:  func(error) { f.reconnects.Add(1) },
	})
}

func (f *Fleet) over(due time.Time) bool {
	select {
	case <-f.stop:
		f.stopped.CompareAndSwap(0, time.Now().UnixNano())
		return due.UnixNano() >= f.stopped.Load()
	default:
		return f.For > 0 && due.Sub(f.start) >= f.For
	}
}
