package e2e

import (
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/dapr-components/sidecar/internal/testbed"
)

// A frame of 512 KiB arrives bit for bit on each lane and a receipt comes back, through two sidecars and a real server.
func TestNATSRoundTrip(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t).Start()
	w := newWay(t, "nats", "HOLDFAST_NATS_URL="+n.URL())
	w.both(10 * time.Second)
}

// Sidecars that start without a server are healthy, refuse at once, and work when the server comes.
func TestNATSStartsLate(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t)
	w := newWay(t, "nats", "HOLDFAST_NATS_URL="+n.URL())
	time.Sleep(time.Second)
	w.failsFast()
	n.Start()
	w.both(30 * time.Second)
}

// A server that is away for longer than a client library has patience, and one that lost everything it had, are both found again.
func TestNATSStopsAndIsWiped(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t).Start()
	w := newWay(t, "nats", "HOLDFAST_NATS_URL="+n.URL())
	w.both(10 * time.Second)
	n.Kill()
	outage := 4 * time.Second
	if testbed.Long() {
		outage = 3 * time.Minute
	}
	time.Sleep(outage)
	w.failsFast()
	n.Start()
	w.both(30 * time.Second)
	n.Wipe()
	w.both(60 * time.Second)
}

// Either sidecar may be killed and started again; the durable consumers go on where they were.
func TestNATSSidecarsKilled(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t).Start()
	w := newWay(t, "nats", "HOLDFAST_NATS_URL="+n.URL())
	w.both(10 * time.Second)
	w.cloud.Kill()
	frame := random(t, frameSize)
	published := make(chan struct{})
	go func() {
		defer close(published)
		w.up("up.live", "/ingest/live", frame, 60*time.Second)
	}()
	time.Sleep(time.Second)
	w.startCloud()
	<-published
	w.edge.Kill()
	w.startEdge()
	w.both(30 * time.Second)
	w.restartAgents(30 * time.Second)
}

// A second cloud sidecar shares the work with the first, and takes all of it when the first is gone.
func TestNATSSecondSubscriber(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t).Start()
	w := newWay(t, "nats", "HOLDFAST_NATS_URL="+n.URL())
	w.both(10 * time.Second)
	other := testbed.NewApp(t)
	testbed.NewSidecar(t, "cloud-api", w.resources("cloud"), other.Port, w.env...)
	testbed.Eventually(t, 30*time.Second, "both replicas get some", func() bool {
		_ = w.publishOnly(random(t, 1000))
		return other.Calls() > 0 && w.app.Calls() > 2
	})
	w.cloud.Stop()
	frame := random(t, frameSize)
	testbed.Eventually(t, 30*time.Second, "the second takes over", func() bool {
		_ = w.publishOnly(frame)
		return other.Has("/ingest/live", frame)
	})
}

// An app that refuses is asked again after growing pauses, not in a hot loop, and gets the frame when it is ready.
func TestNATSAppRefuses(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t).Start()
	w := newWay(t, "nats", "HOLDFAST_NATS_URL="+n.URL())
	w.app.Refuse(true)
	frame := random(t, 1000)
	testbed.Eventually(t, 10*time.Second, "published", func() bool { return w.publishOnly(frame) == nil })
	time.Sleep(4 * time.Second)
	if c := w.app.Calls(); c < 2 || c > 8 {
		t.Errorf("an app that refuses was asked %d times in 4 s, want 2 to 8", c)
	}
	w.app.Refuse(false)
	testbed.Eventually(t, 20*time.Second, "delivered again", func() bool { return w.app.Has("/ingest/live", frame) })
}
