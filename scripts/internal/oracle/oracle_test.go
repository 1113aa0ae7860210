package oracle

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/cloud"
	"github.com/holdfast-edge/holdfast/scripts/internal/sensors"
)

var shape = sensors.Shape{Prefix: "test", Seed: 7}

// What was published, acknowledged and stored once leaves nothing to say.
func TestPerfectRunHasNoFindings(t *testing.T) {
	o := run(3, 100)
	got := check(o, stored(3, 100))
	want := Findings{Published: 300, Acknowledged: 300, Stored: 300}
	if !same(got, want) {
		t.Fatalf("findings = %+v", got)
	}
}

// An acknowledged message that is not stored is missing and named; one that was not acknowledged is not.
func TestMissingIsAcknowledgedButNotStored(t *testing.T) {
	o := run(2, 50)
	o.Published(1, 50, false) // never acknowledged
	rs := stored(2, 50)
	rs = slices.Delete(rs, 10, 13)
	got := check(o, rs)
	if got.Missing != 3 || got.Stored != 97 || got.Published != 101 {
		t.Fatalf("findings = %+v", got)
	}
	if !strings.Contains(strings.Join(got.Examples, "\n"), "test/s-000 number 10") {
		t.Fatalf("examples = %q", got.Examples)
	}
}

// One identity that is read twice is a duplicate, even when the message was sent twice.
func TestSameIdentityTwiceIsADuplicate(t *testing.T) {
	o := run(1, 10)
	o.Published(0, 4, true)
	rs := stored(1, 10)
	got := check(o, append(rs, rs[4]))
	if got.Duplicates != 1 || got.Redelivered != 0 || got.Stored != 10 {
		t.Fatalf("findings = %+v", got)
	}
}

// A second copy under its own identity is redelivered as often as the sensor sent it again, and doubled beyond that.
func TestCopiesAreAllowedAsOftenAsSent(t *testing.T) {
	o := run(1, 10)
	o.Published(0, 4, true)
	rs := stored(1, 10)
	again := rs[4]
	again.Seq, again.DUP = 1000, true
	if got := check(o, append(rs, again)); got.Redelivered != 1 || got.Duplicates != 0 {
		t.Fatalf("one copy: %+v", got)
	}
	third := again
	third.Seq = 1001
	got := check(o, append(rs, again, third))
	if got.Redelivered != 1 || got.Duplicates != 1 {
		t.Fatalf("two copies of a message sent twice: %+v", got)
	}
	never := rs[5]
	never.Seq = 1002
	if got := check(o, append(rs, never)); got.Duplicates != 1 {
		t.Fatalf("a copy that no sensor sent: %+v", got)
	}
}

// A payload that differs by one byte, is not JSON, or claims a number that was never published is altered.
func TestAlteredPayloadsAreFound(t *testing.T) {
	f := func(change func(r *cloud.Reading)) {
		t.Helper()
		o := run(2, 10)
		rs := stored(2, 10)
		change(&rs[3])
		got := check(o, rs)
		if got.Altered != 1 || got.Missing != 1 || got.Stored != 19 {
			t.Errorf("findings = %+v", got)
		}
	}
	f(func(r *cloud.Reading) { r.Payload = strings.Replace(r.Payload, `"value":2`, `"value":3`, 1) })
	f(func(r *cloud.Reading) { r.Payload = "" })
	f(func(r *cloud.Reading) { r.Payload = string(shape.Payload(0, 10)) })
	f(func(r *cloud.Reading) { r.Topic = shape.Topic(1) })
	f(func(r *cloud.Reading) { r.Topic = "test/s-3" })
	f(func(r *cloud.Reading) { r.Topic, r.Payload = shape.Topic(2), string(shape.Payload(2, 3)) })
	f(func(r *cloud.Reading) { r.Encoding = "rot13" })
}

// Payloads in base64 are compared as bytes, and readings of other topics are nobody's business.
func TestEncodingsAndForeignTopics(t *testing.T) {
	o := run(1, 10)
	rs := stored(1, 10)
	for i := range rs {
		rs[i].Payload, rs[i].Encoding = base64.StdEncoding.EncodeToString([]byte(rs[i].Payload)), "base64"
	}
	foreign := cloud.Reading{Agent: "a", Epoch: "1-0", Seq: 500, Topic: "kitchen", Payload: "warm", Encoding: "utf-8"}
	if got := check(o, append(rs, foreign)); !same(got, Findings{Published: 10, Acknowledged: 10, Stored: 10}) {
		t.Fatalf("findings = %+v", got)
	}
}

// Absurd numbers cost a block each, not memory in proportion to them.
func TestAbsurdNumbersAreCheap(t *testing.T) {
	var b bits
	for _, n := range []uint64{0, 63, 64, 4095, 4096, 1 << 60, 1<<64 - 1} {
		if !b.set(n) || b.set(n) {
			t.Fatalf("set %d", n)
		}
	}
	var half bits
	half.set(64)
	half.set(1 << 60)
	if got := slices.Collect(b.without(&half)); !slices.Equal(got, []uint64{0, 63, 4095, 4096, 1<<64 - 1}) {
		t.Fatalf("without = %d", got)
	}
}

// Each reason alone is enough to fail, and says so.
func TestVerdictFailsForEveryReason(t *testing.T) {
	good := func() Verdict {
		return Verdict{Findings: Findings{Published: 100, Acknowledged: 90, Stored: 90}, Expected: 100}
	}
	f := func(change func(v *Verdict), word string) {
		t.Helper()
		v := good()
		change(&v)
		v.Judge()
		if v.Passed == (word != "") || !strings.Contains(strings.Join(v.Faults, "\n"), word) {
			t.Errorf("passed %v, faults %q, want one with %q", v.Passed, v.Faults, word)
		}
	}
	f(func(*Verdict) {}, "")
	f(func(v *Verdict) { v.Redelivered, v.Lost = 5, 5 }, "")
	f(func(v *Verdict) { v.Missing = 1 }, "not in the cloud")
	f(func(v *Verdict) { v.Duplicates = 1 }, "twice")
	f(func(v *Verdict) { v.Altered = 1 }, "not what was published")
	f(func(v *Verdict) { v.Unexplained = 1 }, "nobody says why")
	f(func(v *Verdict) { v.CaughtUpMS = -1 }, "catch up")
	f(func(v *Verdict) { v.Acknowledged = 89 }, "less than 90 %")
	f(func(v *Verdict) { v.Expected, v.Acknowledged = 0, 0 }, "too short")
}

func run(count int, numbers uint64) *Oracle {
	o := New(shape, count)
	for s := range count {
		for n := range numbers {
			o.Published(s, n, false)
			o.Acknowledged(s, n, time.Millisecond)
		}
	}
	return o
}

// stored is what a perfect cloud gives back, sensor by sensor.
func stored(count int, numbers uint64) []cloud.Reading {
	var rs []cloud.Reading
	for s := range count {
		for n := range numbers {
			rs = append(rs, cloud.Reading{
				Agent: "a", Epoch: "1-00", Seq: uint64(len(rs) + 2),
				Topic: shape.Topic(s), Payload: string(shape.Payload(s, n)), Encoding: "utf-8",
			})
		}
	}
	return rs
}

func check(o *Oracle, rs []cloud.Reading) Findings {
	c := o.Check()
	for _, r := range rs {
		_ = c.Add(r) // never fails
	}
	return c.Findings()
}

func same(a, b Findings) bool {
	a.Examples, b.Examples = nil, nil
	return a.Published == b.Published && a.Acknowledged == b.Acknowledged && a.Stored == b.Stored &&
		a.Missing == b.Missing && a.Duplicates == b.Duplicates && a.Redelivered == b.Redelivered && a.Altered == b.Altered
}
