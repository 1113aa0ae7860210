package sensors

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"
)

// A payload is JSON of the size asked for, the same each time, and like no other.
func TestPayloadIsReproducible(t *testing.T) {
	seen := map[string]bool{}
	for _, size := range []int{0, 200, 1000} {
		s := Shape{Prefix: "p", Seed: 3, Size: size}
		for sensor := range 5 {
			for number := range uint64(200) {
				p := s.Payload(sensor, number)
				if !json.Valid(p) || (size > 0 && len(p) != size) {
					t.Fatalf("size %d: %d bytes: %s", size, len(p), p)
				}
				if !bytes.Equal(p, s.Payload(sensor, number)) || seen[string(p)] {
					t.Fatalf("sensor %d number %d: not reproducible, or there already: %s", sensor, number, p)
				}
				seen[string(p)] = true
			}
		}
	}
	a, b := Shape{Seed: 1}, Shape{Seed: 2}
	if bytes.Equal(a.Payload(0, 0), b.Payload(0, 0)) {
		t.Fatal("two seeds made the same payload")
	}
}

// A message is recognised by its topic, and valid only to the byte.
func TestRecognise(t *testing.T) {
	s := Shape{Prefix: "p", Seed: 3}
	good := s.Payload(7, 41)
	f := func(topic string, payload []byte, wantOurs, wantValid bool) {
		t.Helper()
		sensor, number, ours, valid := s.Recognise(topic, payload)
		if ours != wantOurs || valid != wantValid || (valid && (sensor != 7 || number != 41)) {
			t.Errorf("%s %s: sensor %d, number %d, ours %v, valid %v", topic, payload, sensor, number, ours, valid)
		}
	}
	f("p/s-007", good, true, true)
	f("p/s-008", good, true, false)
	f("p/s-7", good, true, false)
	f("p/s-x", good, true, false)
	f("p/other", good, false, false)
	f("q/s-007", good, false, false)
	f("p/s-007", nil, true, false)
	f("p/s-007", []byte(`{"number":-1}`), true, false)
	f("p/s-007", []byte(`{}`), true, false)
	f("p/s-007", append(bytes.Clone(good), ' '), true, false)
}

// The schedule spreads the fleet's rate over its sensors, and For holds exactly what Expected says.
func TestScheduleAddsUpToTheRate(t *testing.T) {
	f := Fleet{Sensors: 7, Rate: 100, For: 10 * time.Second, start: time.Now()}
	due := uint64(0)
	for sensor := range f.Sensors {
		for n := uint64(0); !f.over(f.Due(sensor, n)); n++ {
			due++
		}
	}
	if due < f.Expected()-1 || due > f.Expected()+1 {
		t.Fatalf("%d messages are due, expected %d", due, f.Expected())
	}
}

// A plain payload is JSON of about 118 bytes, the same each time, and recognised like any other.
func TestPlainPayload(t *testing.T) {
	s := Shape{Prefix: "p", Seed: 3, Plain: true}
	for _, number := range []uint64{0, 999, 12_345, 123_456} {
		p := s.Payload(7, number)
		if !json.Valid(p) || len(p) < 110 || len(p) > 122 {
			t.Errorf("number %d: %d bytes: %s", number, len(p), p)
		}
		sensor, got, ours, valid := s.Recognise(s.Topic(7), p)
		if sensor != 7 || got != number || !ours || !valid {
			t.Errorf("number %d: sensor %d, number %d, ours %v, valid %v", number, sensor, got, ours, valid)
		}
	}
}

// A fleet that is stopped has nothing to send that becomes due later, and owes everything that was due before, however late it asks.
func TestStoppedFleetOwesWhatWasDue(t *testing.T) {
	stop := make(chan struct{})
	f := Fleet{Sensors: 1, Rate: 10, stop: stop, start: time.Now().Add(-time.Minute)}
	if f.over(time.Now().Add(time.Hour)) {
		t.Error("it is over before it is stopped")
	}
	close(stop)
	if !f.over(time.Now().Add(time.Hour)) {
		t.Error("what becomes due in an hour is owed by a fleet that is stopped")
	}
	if f.over(f.start.Add(time.Second)) {
		t.Error("what was due a minute ago is not owed")
	}
}
