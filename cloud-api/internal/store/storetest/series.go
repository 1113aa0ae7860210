package storetest

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/pointer"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// BenchValues measures what a chart of one field over one day costs, among rows
// readings of 10 agents with 10 topics each over 10 days: one topic has rows/1000
// readings a day.
func BenchValues(b *testing.B, st store.Store, rows int) {
	const agents, topics, days = 10, 10, 10
	ctx := context.Background()
	gap := days * 24 * time.Hour / time.Duration(rows/agents)
	for i := range agents {
		name := fmt.Sprintf("agent-%d", i)
		t := store.Token{ID: name, Agent: name, Uses: 1, Expires: sent.Add(time.Hour)}
		if err := st.CreateToken(ctx, t); err != nil {
			b.Fatal(err)
		}
		if err := st.Enrol(ctx, t.ID, name, make(ed25519.PublicKey, 32), sent); err != nil {
			b.Fatal(err)
		}
		const size = 5000
		for n := range rows / agents / size {
			f := benchFrame(name, n, size)
			for k := range f.Records {
				at := sent.Add(time.Duration(f.Records[k].Seq) * gap)
				f.Records[k].At = telemetry.Instant{Boot: time.Duration(f.Records[k].Seq) * gap, Wall: at.UnixNano()}
				f.Records[k].Reading.Topic = fmt.Sprintf("t/%d", f.Records[k].Seq%topics)
				f.Received = at
			}
			if _, err := st.Commit(ctx, f); err != nil {
				b.Fatal(err)
			}
		}
	}
	field := pointer.Pointer{[]byte("pressure")}
	var took []time.Duration
	values := 0
	for b.Loop() {
		n := len(took)
		from := sent.Add(time.Duration(n%(days-1)) * 24 * time.Hour)
		start := time.Now()
		values = 0
		err := st.Values(ctx, fmt.Sprintf("agent-%d", n%agents), fmt.Sprintf("t/%d", n%topics), from.UnixNano(), from.Add(24*time.Hour).UnixNano(), func(_ int64, payload []byte) error {
			if _, ok := field.Number(payload); ok {
				values++
			}
			return nil
		})
		if err != nil || values == 0 {
			b.Fatalf("%d values, %v", values, err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(values), "values")
	b.ReportMetric(float64(took[len(took)*95/100].Milliseconds()), "p95-ms")
}
