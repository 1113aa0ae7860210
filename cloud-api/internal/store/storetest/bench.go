package storetest

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Bench measures commits of new frames and of frames that are there already,
// in rows a second, with as many callers as agents.
func Bench(b *testing.B, open func(b *testing.B) store.Store) {
	for _, rows := range []int{100, 1000, 5000} {
		for _, agents := range []int{1, 8} {
			name := fmt.Sprintf("rows=%d/agents=%d", rows, agents)
			b.Run("new/"+name, func(b *testing.B) { benchCommit(b, open(b), rows, agents, false) })
			b.Run("again/"+name, func(b *testing.B) { benchCommit(b, open(b), rows, agents, true) })
		}
	}
}

// benchFrame is one frame of JSON readings of about 118 bytes on 20 topics.
func benchFrame(agent string, n, rows int) store.Frame {
	e := epoch(1)
	first := uint64(n*rows) + 1
	f := store.Frame{Agent: agent, Epoch: e, First: first, Last: first + uint64(rows) - 1, Received: sent.Add(time.Duration(n) * time.Second)}
	f.Open = []telemetry.OpenEpoch{{Epoch: e, Lowest: first, Durable: f.Last}}
	for seq := f.First; seq <= f.Last; seq++ {
		f.Records = append(f.Records, telemetry.Record{
			Seq: seq, Kind: telemetry.KindReading, At: telemetry.Instant{Boot: time.Duration(seq) * time.Millisecond, Wall: sent.UnixNano() + int64(seq)*1e6},
			Reading: &telemetry.Reading{
				Topic: fmt.Sprintf("plant/1/machine/%d/telemetry", seq%20), QoS: 1,
				Payload: fmt.Appendf(nil, `{"ts":%d,"temperature":%.2f,"humidity":%.1f,"pressure":%.1f,"status":"ok","sensor":"s-%03d"}`, 1780000000000+seq, 20+float64(seq%977)/100, 40+float64(seq%313)/10, 1000+float64(seq%97)/10, seq%20),
			},
		})
	}
	return f
}

func benchCommit(b *testing.B, st store.Store, rows, agents int, again bool) {
	ctx := context.Background()
	name := func(i int) string { return fmt.Sprintf("agent-%d", i) }
	for i := range agents {
		t := store.Token{ID: name(i), Agent: name(i), Uses: 1, Expires: sent.Add(time.Hour)}
		if err := st.CreateToken(ctx, t); err != nil {
			b.Fatal(err)
		}
		if err := st.Enrol(ctx, t.ID, name(i), make(ed25519.PublicKey, 32), sent); err != nil {
			b.Fatal(err)
		}
		if again {
			if _, err := st.Commit(ctx, benchFrame(name(i), 0, rows)); err != nil {
				b.Fatal(err)
			}
		}
	}
	frames := make([][]store.Frame, agents)
	for n := range b.N {
		at := n / agents
		if again {
			at = 0
		}
		frames[n%agents] = append(frames[n%agents], benchFrame(name(n%agents), at, rows))
	}
	b.ResetTimer()
	var wg sync.WaitGroup
	for i := range agents {
		wg.Go(func() {
			for _, f := range frames[i] {
				if _, err := st.Commit(ctx, f); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N*rows)/b.Elapsed().Seconds(), "rows/s")
}
