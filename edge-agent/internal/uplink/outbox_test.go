package uplink

import (
	"context"
	"crypto/ed25519"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/outbox"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

func bootTime() telemetry.Instant {
	now := time.Now()
	return telemetry.Instant{Boot: time.Duration(now.UnixNano()), Wall: now.UnixNano()}
}

// openOutbox opens a real outbox in dir and runs it until the test ends.
func openOutbox(t testing.TB, dir string) *outbox.Outbox {
	t.Helper()
	box, stop := startOutbox(t, dir)
	t.Cleanup(stop)
	return box
}

func startOutbox(t testing.TB, dir string) (*outbox.Outbox, func()) {
	t.Helper()
	box, err := outbox.Open(outbox.Options{Dir: dir, Agent: "pi-1", Version: "test", ReserveBytes: -1, Now: bootTime})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := box.Run(ctx); err != nil && ctx.Err() == nil {
			t.Errorf("outbox: %v", err)
		}
	})
	return box, sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if err := box.Close(); err != nil {
			t.Errorf("close outbox: %v", err)
		}
	})
}

// With the real outbox, real frames and real receipts, over three lives of the
// agent with the cloud away in the first two, every record of each arrives and
// is receipted.
func TestRealOutboxOverThreeLives(t *testing.T) {
	dir := t.TempDir()
	_, key, _ := ed25519.GenerateKey(nil)
	sky, root := newLoopback(t, key)
	sky.want = 1 << 62
	go sky.run()
	var lives []telemetry.Epoch
	for life := range 3 {
		box, stop := startOutbox(t, dir)
		up, err := New(Options{Agent: "pi-1", Key: key, Root: func() ed25519.PublicKey { return root }, Outbox: box, Publisher: sky, Now: bootTime})
		if err != nil {
			t.Fatal(err)
		}
		sky.set(up, life == 2)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = up.Run(ctx) }()
		for i := range 60 {
			drafts := make([]outbox.Draft, 50)
			for k := range drafts {
				drafts[k].Reading = sample(50*i + k)
			}
			if _, err := box.Append(ctx, drafts...); err != nil {
				t.Fatal(err)
			}
		}
		open := box.Epochs()
		lives = append(lives, open[len(open)-1].Epoch)
		if life == 2 {
			waitReceipted(t, box, up)
		}
		cancel()
		<-done
		stop()
	}
	sky.mu.Lock()
	defer sky.mu.Unlock()
	for _, e := range lives {
		if !sky.held[e].Covers(telemetry.Range{First: 1, Last: 3001}) {
			t.Errorf("epoch %s: the cloud holds %v", e, sky.held[e])
		}
	}
}

func waitReceipted(t *testing.T, box *outbox.Outbox, up *Uplink) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left := 0
		for _, o := range box.Epochs() {
			left += int(o.Durable - o.Trimmed)
		}
		if left == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d records without a receipt; status %+v", left, up.Status())
		}
	}
}
