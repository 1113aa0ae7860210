package stack

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// cloudConfig: sidecar is where the cloud finds its own.
func cloudConfig(s *Stack, sidecar string) string {
	dir := filepath.Join(s.o.Dir, "cloud")
	return fmt.Sprintf(`name: demo-cloud
public: {listen: %q}
app:
  listen: %q
  token_file: %q
dapr: {address: %q}
store:
  sqlite: {path: %q}
keys: {dir: %q}
`, s.addr.cloudPublic, s.addr.cloudApp, filepath.Join(dir, "app-token"), sidecar,
		s.Database(), filepath.Join(dir, "keys"))
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
`, e.ID, e.Data, e.MQTT, sidecar, s.Cloud.URL, s.tokenFile(), strings.TrimPrefix(e.Status, "http://"))
}

// sidecarArgs are daprd's flags for one side; its component files are the ones
// that the repository ships.
func (s *Stack) sidecarArgs(app, side string, at sidecarPorts) []string {
	return []string{
		"--app-id", app,
		"--resources-path", filepath.Join(s.o.Root, "dapr-components", s.Broker.Kind().Name, side),
		"--dapr-listen-addresses", "127.0.0.1",
		"--dapr-http-port", portOf(at.http),
		"--dapr-grpc-port", portOf(at.grpc),
		"--dapr-internal-grpc-port", portOf(at.internal),
		"--dapr-internal-grpc-listen-address", "127.0.0.1",
		"--enable-metrics=false",
		"--dapr-graceful-shutdown-seconds", strconv.Itoa(int(stopLimit.Seconds()) / 2),
		"--log-as-json",
	}
}
