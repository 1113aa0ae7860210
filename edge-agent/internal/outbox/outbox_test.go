package outbox

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// opened is an outbox that runs until the test, or stop, ends it.
type opened struct {
	*Outbox
	tb     testing.TB
	cancel context.CancelFunc
	ended  chan error
}

func open(tb testing.TB, o Options) *opened {
	tb.Helper()
	if o.Agent == "" {
		o.Agent = "greenhouse-1"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	box, err := Open(o)
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	x := &opened{Outbox: box, tb: tb, cancel: cancel, ended: make(chan error, 1)}
	go func() { x.ended <- box.Run(ctx) }()
	tb.Cleanup(func() { _ = x.stop() })
	return x
}

// damaged returns how many files are to be quarantined.
func (x *opened) damaged() (n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, f := range x.files {
		n += int(boolByte(f.bad != nil))
	}
	return n
}

// stop ends Run and closes the outbox. Calling it again does nothing.
func (x *opened) stop() error {
	if x.cancel == nil {
		return nil
	}
	x.cancel()
	x.cancel = nil
	err := <-x.ended
	if cerr := x.Close(); err == nil {
		err = cerr
	}
	return err
}

func (x *opened) append(drafts ...Draft) uint64 {
	x.tb.Helper()
	last, err := x.Append(context.Background(), drafts...)
	if err != nil {
		x.tb.Fatalf("append: %v", err)
	}
	return last
}

func reading(topic, payload string) Draft {
	return Draft{Reading: &telemetry.Reading{Topic: topic, QoS: 1, Payload: []byte(payload)}}
}

func (x *opened) all(e telemetry.Epoch) []telemetry.Record {
	x.tb.Helper()
	var out []telemetry.Record
	for from := uint64(1); ; {
		recs, err := x.Read(context.Background(), e, from, 1000, 1<<20)
		if err != nil {
			x.tb.Fatalf("read: %v", err)
		}
		if len(recs) == 0 {
			return out
		}
		out = append(out, recs...)
		from = recs[len(recs)-1].Seq + 1
	}
}

// What was appended is read back as it was, behind the start of its epoch, also
// after the folder was closed and opened again.
func TestWhatIsAppendedIsReadBack(t *testing.T) {
	dir := t.TempDir()
	x := open(t, Options{Dir: dir})
	if last := x.append(reading("a", "1"), reading("b", "2")); last != 3 {
		t.Fatalf("last = %d, want 3", last)
	}
	e := x.Epochs()[0].Epoch
	check := func(x *opened) {
		t.Helper()
		recs := x.all(e)
		if len(recs) != 3 || recs[0].Start == nil {
			t.Fatalf("got %d records, first %+v", len(recs), recs[0])
		}
		if got := fmt.Sprintf("%s=%s %s=%s", recs[1].Reading.Topic, recs[1].Reading.Payload, recs[2].Reading.Topic, recs[2].Reading.Payload); got != "a=1 b=2" {
			t.Fatalf("got %s", got)
		}
	}
	check(x)
	if err := x.stop(); err != nil {
		t.Fatal(err)
	}
	x = open(t, Options{Dir: dir})
	check(x)
	x.append(reading("a", "3"))
	recs := x.all(x.Stats().Epoch)
	if s := recs[0].Start; s.Previous != e || s.PreviousLast != 3 || !s.PreviousClean {
		t.Fatalf("start names %s up to %d, clean %t", s.Previous, s.PreviousLast, s.PreviousClean)
	}
}
