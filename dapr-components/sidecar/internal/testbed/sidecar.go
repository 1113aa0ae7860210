package testbed

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/dapr/go-sdk/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// daprdBinary builds the sidecar, or takes the one that HOLDFAST_DAPRD names.
var daprdBinary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("HOLDFAST_DAPRD"); path != "" {
		return path, nil
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	return build(root, "daprd")
})

var built sync.Map // folders to delete

// build compiles the main package of a module that stands alone.
func build(module, name string) (string, error) {
	dir, err := os.MkdirTemp("", "holdfast-"+name+"-")
	if err != nil {
		return "", err
	}
	built.Store(dir, nil)
	out := filepath.Join(dir, name)
	// The flags are those of the project's other builds, so that the runtime is compiled once for all of them.
	_, err = goCommand(context.Background(), module, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, ".")
	return out, err
}

// Clean deletes what was built for the tests of a package. TestMain calls it last.
func Clean() {
	built.Range(func(dir, _ any) bool {
		_ = os.RemoveAll(dir.(string)) // a folder in the system's temporary one
		return true
	})
}

// Sidecar is a running daprd.
type Sidecar struct {
	*Process
	t        testing.TB
	HTTPPort int
	GRPCPort int
}

// NewSidecar starts a daprd with the resources of a folder and waits until its API answers. appPort 0: no app.
func NewSidecar(t testing.TB, appID, resources string, appPort int, env ...string) *Sidecar {
	t.Helper()
	bin, err := daprdBinary()
	if err != nil {
		t.Fatal(err)
	}
	s := &Sidecar{t: t, HTTPPort: FreePort(t), GRPCPort: FreePort(t)}
	args := []string{
		"--app-id", appID, "--resources-path", resources,
		"--dapr-http-port", strconv.Itoa(s.HTTPPort), "--dapr-grpc-port", strconv.Itoa(s.GRPCPort),
		"--dapr-internal-grpc-port", strconv.Itoa(FreePort(t)), "--dapr-listen-addresses", "127.0.0.1",
		"--placement-host-address=", "--scheduler-host-address=", "--enable-metrics=false",
	}
	if appPort != 0 {
		args = append(args, "--app-port", strconv.Itoa(appPort), "--app-protocol", "http")
	}
	s.Process = Start(t, env, bin, args...)
	Eventually(t, 30*time.Second, appID+": the sidecar is healthy", func() bool {
		if !s.Alive() {
			t.Fatalf("daprd ended at once:\n%s", s.out.tail(3000))
		}
		return s.Healthy()
	})
	return s
}

// Healthy asks the sidecar's own health, all of it and that of its components.
func (s *Sidecar) Healthy() bool { return s.ok("/v1.0/healthz") && s.ok("/v1.0/healthz/outbound") }

func (s *Sidecar) ok(path string) bool {
	c := http.Client{Timeout: 5 * time.Second}
	r, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d%s", s.HTTPPort, path))
	if err != nil {
		return false
	}
	defer r.Body.Close()
	return r.StatusCode == http.StatusNoContent
}

// Client is Dapr's own client over a connection that is made when it is used.
func (s *Sidecar) Client() client.Client {
	s.t.Helper()
	conn, err := grpc.NewClient(fmt.Sprintf("127.0.0.1:%d", s.GRPCPort), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return client.NewClientWithConnection(conn)
}

// RSS is the sidecar's resident memory in bytes, and the part of it that is no file.
func (s *Sidecar) RSS() (total, anon int64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Pid()))
	if err != nil {
		s.t.Fatal(err)
	}
	return kilobytes(b, "VmRSS:"), kilobytes(b, "RssAnon:")
}
