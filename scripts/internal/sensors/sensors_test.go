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
