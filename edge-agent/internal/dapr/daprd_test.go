package dapr

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/freeport"
)

// component is a pub/sub that needs no broker.
const component = `apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: holdfast}
spec: {type: pubsub.in-memory, version: v1}
`

// startDaprd runs a real sidecar, or skips the test where HOLDFAST_DAPRD names
// none and there is none in the path.
func startDaprd(t *testing.T, address string) (stop func()) {
	t.Helper()
	path := os.Getenv("HOLDFAST_DAPRD")
	if path == "" {
		var err error
		if path, err = exec.LookPath("daprd"); err != nil {
			if slices.Contains(strings.Split(os.Getenv("HOLDFAST_TEST_REQUIRE"), ","), "daprd") {
				t.Fatal("daprd is required and neither HOLDFAST_DAPRD nor the path has it")
			}
			t.Skip("SKIP: no daprd; build dapr-components/sidecar and name it in HOLDFAST_DAPRD")
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "pubsub.yaml"), []byte(component), 0o600); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(address)
	cmd := exec.Command(path, "--app-id", "edge-agent", "--dapr-grpc-port", port, "--dapr-http-port", freePort(t),
		"--dapr-internal-grpc-port", freePort(t), "--dapr-listen-addresses", "127.0.0.1", "--resources-path", dir, "--enable-metrics=false")
	cmd.Env = append(os.Environ(), "DAPR_API_TOKEN=secret")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Log(out.String())
		}
	})
	return stop
}

func freeAddress(t *testing.T) string {
	t.Helper()
	addr, err := freeport.Address()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func freePort(t *testing.T) string {
	t.Helper()
	_, port, _ := net.SplitHostPort(freeAddress(t)) // it always has one
	return port
}

// Over a real sidecar, one that comes late, is killed and comes back, what is
// published on a topic arrives bit for bit at who subscribed to it.
func TestRealSidecar(t *testing.T) {
	address := freeAddress(t)
	c := connect(t, address)
	got := subscribed(t, c, nil)
	if err := c.Publish(t.Context(), "down.pi", nil); err == nil {
		t.Fatal("published without a sidecar")
	}
	frame := make([]byte, 512<<10)
	for i := range frame {
		frame[i] = byte(i * 7)
	}
	for round := 1; round <= 2; round++ {
		stop := startDaprd(t, address)
		eventually(t, func() bool { return c.State().Subscribed })
		if err := c.Publish(t.Context(), "down.pi", frame); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool { return len(got()) == round })
		if got()[round-1] != string(frame) {
			t.Fatalf("%d bytes came back changed", len(got()[round-1]))
		}
		stop()
		eventually(t, func() bool { return !c.State().Subscribed })
	}
}

// A sidecar with another token refuses what the agent sends, and the state says so.
func TestRealSidecarAsksForItsToken(t *testing.T) {
	address := freeAddress(t)
	startDaprd(t, address)
	c := connect(t, address)
	eventually(t, func() bool { return c.Publish(t.Context(), "up.live", []byte("x")) == nil })
	c.opts.Token = "another"
	err := c.Publish(t.Context(), "up.live", []byte("x"))
	if err == nil || !strings.Contains(c.State().LastError, "uplink.dapr_token_file") {
		t.Errorf("got %v, %+v", err, c.State())
	}
}
