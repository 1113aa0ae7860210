package e2e

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dapr/go-sdk/client"

	"github.com/holdfast-edge/holdfast/dapr-components/sidecar/internal/testbed"
)

// What two sidecars carry, and what they need for it: frames of a size from four publishers to an app that only counts them.
func BenchmarkNATSFrames(b *testing.B) {
	for _, size := range []struct {
		name  string
		bytes int
	}{{"4KiB", 4 << 10}, {"64KiB", 64 << 10}, {"512KiB", 512 << 10}} {
		b.Run(size.name, func(b *testing.B) { benchFrames(b, size.bytes) })
	}
}

func benchFrames(b *testing.B, size int) {
	n := testbed.NewNATS(b).Start()
	w := newWay(b, "nats", "HOLDFAST_NATS_URL="+n.URL())
	w.up("up.live", "/ingest/live", []byte("first"), 30*time.Second)
	w.app.Discard()
	time.Sleep(7 * time.Second) // the sidecars have given back what only their start needed
	before := w.app.Calls()
	frame := random(b, size)
	b.SetBytes(int64(size))
	peaks := watchRSS(b, w.edge, w.cloud)
	b.ResetTimer()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for next.Add(1) <= int64(b.N) {
				err := w.client.PublishEvent(context.Background(), "holdfast", "up.live", frame, client.PublishEventWithRawPayload())
				if err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	testbed.Eventually(b, time.Minute, "all arrive", func() bool { return w.app.Calls()-before >= b.N })
	b.StopTimer()
	for i, p := range peaks() {
		name := []string{"edge", "cloud"}[i]
		b.ReportMetric(float64(p.total)/(1<<20), name+"-rss-MiB")
		b.ReportMetric(float64(p.anon)/(1<<20), name+"-anon-MiB")
	}
}

// memory is what is resident, in bytes, and the part of it that is no file.
type memory struct{ total, anon int64 }

// watchRSS samples the resident memory of each sidecar until its result is called, which returns the highest of each.
func watchRSS(b *testing.B, sidecars ...*testbed.Sidecar) func() []memory {
	stop, done := make(chan struct{}), make(chan struct{})
	peaks := make([]memory, len(sidecars))
	go func() {
		defer close(done)
		for {
			for i, s := range sidecars {
				total, anon := s.RSS()
				peaks[i] = memory{max(peaks[i].total, total), max(peaks[i].anon, anon)}
			}
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return func() []memory { close(stop); <-done; return peaks }
}
