package stack

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/holdfast-edge/holdfast/scripts/internal/loopback"
)

// cloudConfig: sidecar is where the replica finds its own.
func (s *Stack) cloudConfig(public, app, sidecar string) string {
	dir := filepath.Join(s.o.Dir, "cloud")
	store := fmt.Sprintf("sqlite: {path: %q}", s.Database())
	if s.Postgres != nil {
		store = fmt.Sprintf("postgres: {dsn_file: %q}", s.dsnFile())
	}
	return fmt.Sprintf(`name: demo-cloud
public: {listen: %q}
app:
  listen: %q
  token_file: %q
dapr: {address: %q}
store:
  %s
keys: {dir: %q}
`, public, app, s.appToken(), sidecar, store, filepath.Join(dir, "keys"))
}

func (s *Stack) edgeConfig(e *Edge, sidecar string) string {
	return fmt.Sprintf(`agent: %q
data: %q
intake:
  mqtt: {listen: %q}
uplink: {dapr_address: %q}
enrol:
  url: %q
  token_file: %q
status: {listen: %q}
%s`, e.ID, e.Data, e.MQTT, sidecar, s.Cloud.URL, s.tokenFile(e.ID), strings.TrimPrefix(e.Status, "http://"), e.config)
}

// sidecarArgs are daprd's flags for one side; its component files are the ones
// that the repository ships.
func (s *Stack) sidecarArgs(app, side string, at sidecarPorts) []string {
	return []string{
		"--app-id", app,
		"--resources-path", filepath.Join(s.o.Root, "dapr-components", s.Broker.Kind().Name, side),
		"--dapr-listen-addresses", "127.0.0.1",
		"--dapr-http-port", loopback.Port(at.http),
		"--dapr-grpc-port", loopback.Port(at.grpc),
		"--dapr-internal-grpc-port", loopback.Port(at.internal),
		"--dapr-internal-grpc-listen-address", "127.0.0.1",
		"--enable-metrics=false",
		"--dapr-graceful-shutdown-seconds", strconv.Itoa(int(stopLimit.Seconds()) / 2),
		"--log-as-json",
	}
}
