// Package e2e runs the real sidecar with the project's own component files against real brokers.
package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"flag"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/dapr/go-sdk/client"

	"github.com/holdfast-edge/holdfast/dapr-components/sidecar/internal/testbed"
)

const (
	agent     = "greenhouse-1"
	frameSize = 512 << 10 // the largest frame that an agent cuts
)

var receipts = client.SubscriptionOptions{PubsubName: "holdfast", Topic: "down." + agent, Metadata: map[string]string{"rawPayload": "true"}}

// TestMain lets more tests run side by side than there are cores: they wait most of the time.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "5"); err != nil {
		panic(err)
	}
	code := m.Run()
	testbed.Clean()
	os.Exit(code)
}

// way is the whole way: an app in the cloud, its sidecar, a broker, the edge's sidecar and its client.
type way struct {
	t        testing.TB
	broker   string
	env      []string
	app      *testbed.App
	cloud    *testbed.Sidecar
	edge     *testbed.Sidecar
	client   client.Client
	cloudAPI client.Client
	receipts *inbox

	ctx       context.Context // ends with the test
	stopAgent context.CancelFunc
}

// newWay starts both sidecars with the files of a broker's folder. The broker need not be there.
func newWay(t testing.TB, broker string, env ...string) *way {
	t.Helper()
	w := &way{t: t, broker: broker, env: env, app: testbed.NewApp(t), receipts: &inbox{}}
	w.ctx = t.Context()
	w.startCloud()
	w.startEdge()
	return w
}

func (w *way) resources(end string) string {
	root, err := testbed.Root()
	if err != nil {
		w.t.Fatal(err)
	}
	return filepath.Join(root, "..", w.broker, end)
}

func (w *way) startCloud() {
	w.t.Helper()
	w.cloud = testbed.NewSidecar(w.t, "cloud-api", w.resources("cloud"), w.app.Port, w.env...)
	w.cloudAPI = w.cloud.Client()
}

func (w *way) startEdge() {
	w.t.Helper()
	w.edge = testbed.NewSidecar(w.t, "edge-agent", w.resources("edge"), 0, w.env...)
	w.client = w.edge.Client()
	w.startAgent()
}

// startAgent opens the streaming subscription of an agent, after closing that of the one before.
func (w *way) startAgent() {
	if w.stopAgent != nil {
		w.stopAgent()
	}
	ctx, stop := context.WithCancel(w.ctx)
	w.stopAgent = stop
	go w.receipts.listen(ctx, w.client)
}

// restartAgents replaces the agent three times by another that dies with a receipt in its hand, and then by one that works.
func (w *way) restartAgents(within time.Duration) {
	w.t.Helper()
	for range 3 {
		w.stopAgent()
		w.stuckAgent()
		w.startAgent()
		w.down(random(w.t, 2000), within)
	}
}

// stuckAgent takes one receipt, never answers it, and dies.
func (w *way) stuckAgent() {
	ctx, stop := context.WithTimeout(w.ctx, 10*time.Second)
	defer stop()
	sub, err := w.client.Subscribe(ctx, receipts)
	if err != nil {
		return
	}
	sent := make(chan error, 1)
	go func() {
		sent <- w.cloudAPI.PublishEvent(ctx, "holdfast", "down."+agent, []byte("in hand"), client.PublishEventWithRawPayload())
	}()
	_, _ = sub.Receive() // nothing within ten seconds will do as well
	_ = <-sent           // it may have arrived or not
}

// up publishes from the edge until it arrives at the cloud, as an agent does that hears no receipt, and fails when it does not.
func (w *way) up(topic, route string, payload []byte, within time.Duration) {
	w.t.Helper()
	end := time.Now().Add(within)
	for attempt := 1; time.Now().Before(end); attempt++ {
		ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
		err := w.client.PublishEvent(ctx, "holdfast", topic, payload, client.PublishEventWithRawPayload())
		cancel()
		if err != nil {
			time.Sleep(200 * time.Millisecond)
			continue
		}
		for resend := time.Now().Add(3 * time.Second); time.Now().Before(resend); time.Sleep(20 * time.Millisecond) {
			if w.app.Has(route, payload) {
				return
			}
		}
	}
	w.t.Fatalf("%s: the frame did not arrive within %v", topic, within)
}

// publishOnly publishes one frame on the live lane and waits for nothing but the answer.
func (w *way) publishOnly(payload []byte) error {
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	return w.client.PublishEvent(ctx, "holdfast", "up.live", payload, client.PublishEventWithRawPayload())
}

// down publishes from the cloud until it arrives at the edge.
func (w *way) down(payload []byte, within time.Duration) {
	w.t.Helper()
	end := time.Now().Add(within)
	for time.Now().Before(end) {
		ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
		err := w.cloudAPI.PublishEvent(ctx, "holdfast", "down."+agent, payload, client.PublishEventWithRawPayload())
		cancel()
		if err != nil {
			time.Sleep(200 * time.Millisecond)
			continue
		}
		for resend := time.Now().Add(3 * time.Second); time.Now().Before(resend); time.Sleep(20 * time.Millisecond) {
			if w.receipts.has(payload) {
				return
			}
		}
	}
	w.t.Fatalf("the receipt did not arrive within %v", within)
}

// both sends one frame on each lane and one receipt.
func (w *way) both(within time.Duration) {
	w.t.Helper()
	w.up("up.live", "/ingest/live", random(w.t, frameSize), within)
	w.up("up.backlog", "/ingest/backlog", random(w.t, frameSize), within)
	w.down(random(w.t, 2000), within)
}

// failsFast expects that a publish is refused at once, and that neither sidecar thinks itself dead.
func (w *way) failsFast() {
	w.t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(w.ctx, 20*time.Second)
	defer cancel()
	err := w.client.PublishEvent(ctx, "holdfast", "up.live", []byte("x"), client.PublishEventWithRawPayload())
	if err == nil {
		w.t.Error("publish without a broker was accepted")
	}
	if d := time.Since(began); d > 2*time.Second {
		w.t.Errorf("publish without a broker took %v to fail, want at most 2s", d)
	}
	w.healthy()
}

func (w *way) healthy() {
	w.t.Helper()
	if !w.edge.Healthy() || !w.cloud.Healthy() {
		w.t.Errorf("/v1.0/healthz without a broker: edge %v, cloud %v, want both true", w.edge.Healthy(), w.cloud.Healthy())
	}
}

func random(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

// inbox keeps the receipts of a streaming subscription that is reopened for ever, as the agent's is.
type inbox struct {
	mu  sync.Mutex
	got [][]byte
}

func (i *inbox) listen(ctx context.Context, c client.Client) {
	for ctx.Err() == nil {
		i.listenOnce(ctx, c)
		time.Sleep(200 * time.Millisecond)
	}
}

func (i *inbox) listenOnce(ctx context.Context, c client.Client) {
	sub, err := c.Subscribe(ctx, receipts)
	if err != nil {
		return
	}
	defer sub.Close()
	for {
		msg, err := sub.Receive()
		if err != nil {
			return
		}
		i.mu.Lock()
		i.got = append(i.got, msg.RawData)
		i.mu.Unlock()
		if msg.Success() != nil {
			return
		}
	}
}

func (i *inbox) has(payload []byte) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, p := range i.got {
		if bytes.Equal(p, payload) {
			return true
		}
	}
	return false
}
