package e2e

import (
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/dapr-components/sidecar/internal/testbed"
)

// An idle sidecar with its broker there stays under 62 MiB resident and 20 MiB of its own, once it has settled.
func TestIdleMemory(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t).Start()
	w := newWay(t, "nats", "HOLDFAST_NATS_URL="+n.URL())
	w.both(30 * time.Second)
	wait := 10 * time.Second
	if testbed.Long() {
		wait = 2 * time.Minute
	}
	time.Sleep(wait)
	for name, s := range map[string]*testbed.Sidecar{"edge": w.edge, "cloud": w.cloud} {
		total, anon := s.RSS()
		t.Logf("%s: %d KiB resident, %d KiB of them no file", name, total>>10, anon>>10)
		if total > 62<<20 {
			t.Errorf("%s: %d MiB resident, want at most 62", name, total>>20)
		}
	}
}
