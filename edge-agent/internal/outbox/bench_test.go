package outbox

import (
	"context"
	"fmt"
	"testing"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

func BenchmarkAppend(b *testing.B) {
	for _, batch := range []int{1, 64, 1024} {
		b.Run(fmt.Sprint("batch=", batch), func(b *testing.B) {
			x := open(b, Options{Dir: b.TempDir(), MaxBytes: 8 << 30})
			drafts := make([]Draft, batch)
			for i := range drafts {
				drafts[i] = reading("bench/temperature", string(make([]byte, 256)))
			}
			b.ReportAllocs()
			b.SetBytes(256)
			for n := 0; n < b.N; n += batch {
				x.append(drafts...)
			}
		})
	}
}

func BenchmarkRead(b *testing.B) {
	x := open(b, Options{Dir: b.TempDir(), SegmentBytes: 8 << 20})
	for range 40 {
		drafts := make([]Draft, 1024)
		for i := range drafts {
			drafts[i] = reading("bench/temperature", string(make([]byte, 256)))
		}
		x.append(drafts...)
	}
	e := x.Epochs()[0]
	b.ReportAllocs()
	b.SetBytes(256)
	b.ResetTimer()
	from := uint64(1)
	for n := 0; n < b.N; {
		recs, err := x.Read(context.Background(), e.Epoch, from, 4096, 512<<10)
		if err != nil {
			b.Fatal(err)
		}
		n += len(recs)
		if from += uint64(len(recs)); from > e.Durable {
			from = 1
		}
	}
}

func BenchmarkTrim(b *testing.B) {
	x := open(b, Options{Dir: b.TempDir()})
	x.append(reading("t", "x"))
	r := telemetry.Receipt{Agent: "greenhouse-1", Epochs: []telemetry.EpochReceipt{{Epoch: x.Epochs()[0].Epoch, Watermark: 1}}}
	b.ReportAllocs()
	for b.Loop() {
		if err := x.Trim(r); err != nil {
			b.Fatal(err)
		}
	}
}
