package storetest

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/pointer"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// valuesRows sets how many readings BenchValues looks among.
const valuesRows = "HOLDFAST_BENCH_VALUES"

// BenchValues measures what a chart of one field over one day costs, among the
// readings of 10 agents with 10 topics each over 10 days: a thousandth of them is
// read. There are 500 000, or as many as HOLDFAST_BENCH_VALUES says: ten million
// take minutes to store.
func BenchValues(b *testing.B, st store.Store) {
	const agents, topics, days = 10, 10, 10
	rows := 500_000
	if s := os.Getenv(valuesRows); s != "" {
		var err error
		if rows, err = strconv.Atoi(s); err != nil {
			b.Fatalf("%s = %q: want a number", valuesRows, s)
		}
	}
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
