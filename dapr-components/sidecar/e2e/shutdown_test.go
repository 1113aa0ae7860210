package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/dapr-components/sidecar/internal/testbed"
)

// A sidecar that is asked to end through its API does so although an agent listens for receipts, and another takes its place.
func TestShutdownEndsTheSidecar(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t).Start()
	w := newWay(t, "nats", "HOLDFAST_NATS_URL="+n.URL())
	w.both(30 * time.Second)
	resp, err := http.Post(fmt.Sprintf("http://127.0.0.1:%d/v1.0/shutdown", w.edge.HTTPPort), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	if resp.StatusCode != http.StatusNoContent {
		t.Errorf("shutdown: got %s", resp.Status)
	}
	testbed.Eventually(t, time.Minute, "the sidecar has ended", func() bool { return !w.edge.Alive() })
	w.startEdge()
	w.both(60 * time.Second)
}
