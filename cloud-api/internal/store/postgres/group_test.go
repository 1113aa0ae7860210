package postgres

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

func waiting(agent string, recs ...telemetry.Record) *waiter {
	f := store.Frame{Agent: agent, Epoch: telemetry.Epoch{Ordinal: 1, ID: [8]byte{1}}, Records: recs}
	if len(recs) > 0 {
		f.First, f.Last = recs[0].Seq, recs[len(recs)-1].Seq
	}
	return &waiter{frame: &f, bytes: size(&f), turn: make(chan turn, 1)}
}

func readingOf(seq uint64, bytes int) telemetry.Record {
	return telemetry.Record{Seq: seq, Kind: telemetry.KindReading, Reading: &telemetry.Reading{Topic: "t", Payload: make([]byte, bytes)}}
}

// The frames that wait for one agent go together, in their order, as far as one
// transaction goes; a frame that the next one depends on goes by itself. Agents do
// not wait for each other, and nothing is left of a line that ended.
func TestWaitersGoTogether(t *testing.T) {
	var l lines
	first := waiting("a", readingOf(1, 1))
	if l.join(first) || l.join(waiting("b")) {
		t.Fatal("waits for nobody")
	}
	anchor := telemetry.Record{Seq: 5, Kind: telemetry.KindAnchor, Anchor: &telemetry.Anchor{}}
	start := telemetry.Record{Seq: 1, Kind: telemetry.KindStart, Start: &telemetry.Start{}}
	raw := waiting("a")
	raw.frame.Raw = []byte("raw")
	line := []*waiter{
		waiting("a", readingOf(2, 1)), waiting("a", readingOf(3, 1)), waiting("a", readingOf(4, 1)),
		waiting("a", anchor), waiting("a", start), raw, waiting("a"), waiting("a", readingOf(6, maxGroupBytes)), waiting("a", readingOf(7, maxGroupBytes)),
	}
	for range maxGroup + 3 {
		line = append(line, waiting("a"))
	}
	for _, w := range line {
		if !l.join(w) {
			t.Fatal("does not wait")
		}
	}
	for _, want := range []int{3, 1, 1, 1, 2, 16, 4} {
		l.pass("a")
		got := <-line[0].turn
		if len(got.group) != want {
			t.Fatalf("%d go together, want %d", len(got.group), want)
		}
		for i, w := range got.group {
			if w != line[i] {
				t.Error("not in their order")
			}
		}
		line = line[want:]
	}
	l.pass("a")
	l.pass("b")
	if len(line) != 0 || len(l.of) != 0 {
		t.Errorf("%d left, %v", len(line), l.of)
	}
}

// Who gives up leaves the line; who was given the lead at that moment has it.
func TestWaiterLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lines
		l.join(waiting("a"))
		w, next := waiting("a"), waiting("a")
		l.join(w)
		l.join(next)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := l.wait(ctx, w); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%v", err)
		}
		l.pass("a")
		if got, err := l.wait(ctx, next); err != nil || len(got.group) != 1 {
			t.Errorf("%+v, %v", got, err)
		}
		l.pass("a")
		if len(l.of) != 0 {
			t.Error("the line has no end")
		}
	})
}
