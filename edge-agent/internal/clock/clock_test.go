package clock

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// device is a clock that a test sets; inside a synctest bubble it runs by itself.
type device struct {
	start time.Time
	mu    sync.Mutex
	step  time.Duration // of the wall clock
	sync  Sync
}

func (d *device) set(step time.Duration, s Sync) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.step, d.sync = d.step+step, s
}

func newDevice(wall time.Time) *device {
	return &device{start: time.Now(), step: time.Until(wall)}
}

func (d *device) Now() telemetry.Instant {
	d.mu.Lock()
	defer d.mu.Unlock()
	return telemetry.Instant{Boot: time.Since(d.start), Wall: time.Now().Add(d.step).UnixNano()}
}

func (d *device) Sync() Sync {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sync
}

// recorder keeps anchors, or fails.
type recorder struct {
	mu   sync.Mutex
	at   []telemetry.Instant
	got  []telemetry.Anchor
	fail error
}

func (r *recorder) Anchor(_ context.Context, at telemetry.Instant, a telemetry.Anchor) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail == nil {
		r.at, r.got = append(r.at, at), append(r.got, a)
	}
	return r.fail
}

func (r *recorder) refuse(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = err
}

func observe(t *testing.T, d *device, f func(r *recorder)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &recorder{}
	ended := make(chan error, 1)
	go func() { ended <- (&Anchors{Clock: d, Recorder: r, Logger: slog.New(slog.DiscardHandler)}).Run(ctx) }()
	synctest.Wait()
	f(r)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// pass lets time go by, beyond the next look.
func pass(d time.Duration) {
	time.Sleep(d + look + time.Millisecond)
	synctest.Wait()
}

// A device that starts in 1970 says so; when the network brings the time, an
// anchor says by how much the clock moved and that it is synchronised.
func TestAnchorsFrom1970(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(time.Unix(5, 0))
		observe(t, d, func(r *recorder) {
			if len(r.got) != 1 || r.got[0] != (telemetry.Anchor{}) || r.at[0].Wall != 5e9 {
				t.Fatalf("at the start: got %+v at %+v", r.got, r.at)
			}
			pass(10 * time.Second)
			if len(r.got) != 1 {
				t.Fatalf("nothing happened: got %+v", r.got)
			}
			d.set(56*365*24*time.Hour, Sync{true, 20 * time.Millisecond})
			pass(0)
			want := telemetry.Anchor{Synchronised: true, Moved: 56 * 365 * 24 * time.Hour, MaxError: 20 * time.Millisecond}
			if len(r.got) != 2 || r.got[1] != want {
				t.Fatalf("after synchronisation: got %+v, want %+v", r.got, want)
			}
		})
	})
}

// A step back of an hour is an anchor with a negative move.
func TestAnchorAfterAStepBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
		d.sync = Sync{Synchronised: true}
		observe(t, d, func(r *recorder) {
			pass(time.Minute)
			d.set(-time.Hour, Sync{Synchronised: true})
			pass(0)
			if len(r.got) != 2 || r.got[1].Moved != -time.Hour || !r.got[1].Synchronised {
				t.Fatalf("got %+v", r.got)
			}
			pass(time.Minute)
			if len(r.got) != 2 {
				t.Fatalf("the step was told twice: %+v", r.got)
			}
		})
	})
}

// Small corrections are no jump, until they add up.
func TestSlewingAddsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
		observe(t, d, func(r *recorder) {
			for range 2 {
				d.set(400*time.Millisecond, Sync{})
				pass(0)
			}
			if len(r.got) != 1 {
				t.Fatalf("got %+v", r.got)
			}
			d.set(400*time.Millisecond, Sync{})
			pass(0)
			if len(r.got) != 2 || r.got[1].Moved != 1200*time.Millisecond {
				t.Fatalf("got %+v", r.got)
			}
		})
	})
}

// There is an anchor each hour, and one when the kernel calls the clock
// unsynchronised again.
func TestAnchorsAreRegular(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
		d.sync = Sync{Synchronised: true}
		observe(t, d, func(r *recorder) {
			for range 5 {
				pass(time.Hour)
			}
			if len(r.got) != 6 {
				t.Fatalf("got %d anchors in 5 h, want 6", len(r.got))
			}
			d.set(0, Sync{})
			pass(0)
			if len(r.got) != 7 || r.got[6].Synchronised {
				t.Fatalf("got %+v", r.got)
			}
		})
	})
}

// An anchor that a full outbox did not take is tried again, and then tells the
// whole move.
func TestAnchorIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(time.Unix(0, 0))
		observe(t, d, func(r *recorder) {
			r.refuse(errors.New("full"))
			d.set(time.Hour, Sync{})
			pass(time.Minute)
			d.set(time.Hour, Sync{})
			r.refuse(nil)
			pass(0)
			if len(r.got) != 2 || r.got[1].Moved != 2*time.Hour {
				t.Fatalf("got %+v", r.got)
			}
		})
	})
}

// The system's clock runs, and knows more time since boot than this process has.
func TestSystemClock(t *testing.T) {
	c := System()
	a := c.Now()
	time.Sleep(2 * time.Millisecond)
	b := c.Now()
	if passed := b.Boot - a.Boot; passed < 2*time.Millisecond || passed > time.Minute {
		t.Errorf("time since boot went on by %s", passed)
	}
	if wall := time.Unix(0, b.Wall); time.Since(wall).Abs() > time.Minute {
		t.Errorf("wall clock says %s", wall)
	}
	c.Sync() // whatever it says, it does not fail
}

// The boot id is read as 16 bytes, and anything else is an error.
func TestBootID(t *testing.T) {
	a, err := Boot()
	if err != nil || a == ([16]byte{}) {
		t.Fatalf("got %x, %v", a, err)
	}
	path := filepath.Join(t.TempDir(), "boot_id")
	for _, text := range []string{"", "0123", "zz23456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef01"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if id, err := parseBoot(path); err == nil {
			t.Errorf("%q is taken for %x", text, id)
		}
	}
	if _, err := parseBoot("/nowhere"); err == nil {
		t.Error("no file, no error")
	}
}
