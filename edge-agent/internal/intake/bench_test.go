package intake_test

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/intake"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// batches commits whatever queued every few milliseconds, as the outbox does.
type batches struct {
	mu    sync.Mutex
	queue []func(uint64, error)
}

func (b *batches) Submit(_ context.Context, _ *telemetry.Reading, _ *telemetry.Oversized, done func(uint64, error)) error {
	b.mu.Lock()
	b.queue = append(b.queue, done)
	b.mu.Unlock()
	return nil
}

func (b *batches) run(ctx context.Context, every time.Duration) {
	var spare []func(uint64, error)
	for ctx.Err() == nil {
		time.Sleep(every)
		b.mu.Lock()
		batch := b.queue
		b.queue = spare[:0]
		b.mu.Unlock()
		for _, done := range batch {
			done(0, nil)
		}
		spare = batch
	}
}

// BenchmarkServer measures the way from a sensor's socket to its PUBACK with 200
// bytes of payload, 4 connections and a commit every 5 ms. The sensors run in the
// same process: their share is in the figure.
func BenchmarkServer(b *testing.B) {
	s := &batches{}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	go s.run(ctx, 5*time.Millisecond)
	server := serve(b, s, nil)
	benchmarkClients(b, server, 4)
}

func benchmarkClients(b *testing.B, server *intake.Server, clients int) {
	b.ReportAllocs()
	payload := make([]byte, 200)
	var group sync.WaitGroup
	conns := make([]*client, clients)
	for i := range conns {
		conns[i] = connect3(b, server, fmt.Sprint("sensor-", i))
	}
	b.ResetTimer()
	for _, c := range conns {
		n := b.N/clients + 1
		group.Go(func() { // writes 16 at a time, as a client with a write buffer does
			for i := 0; i < n; {
				var batch []byte
				for range min(16, n-i) {
					batch = append(batch, publishPacket(4, 2, uint16(i%65535+1), "site/line/sensor", payload)...)
					i++
				}
				if _, err := c.Write(batch); err != nil {
					b.Error(err)
					return
				}
			}
		})
		group.Go(func() {
			if _, err := io.CopyN(io.Discard, c.in, int64(4*n)); err != nil {
				b.Error(err)
			}
		})
	}
	group.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}
