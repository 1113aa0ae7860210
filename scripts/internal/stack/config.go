package stack

import (
	"fmt"
	"path/filepath"
	"strconv"
)

// natsConfig: sync_interval always, because by default NATS acknowledges up to
// two minutes before it syncs.
func natsConfig(s *Stack) string {
	return fmt.Sprintf(`listen: %q
http: %q
server_name: demo
jetstream {
  store_dir: %q
  sync_interval: always
}
`, s.addr.nats, s.addr.natsMonitor, filepath.Join(s.o.Dir, "nats"))
}

func cloudConfig(s *Stack) string {
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
`, s.addr.cloudPublic, s.addr.cloudApp, filepath.Join(dir, "app-token"), s.addr.cloudGRPC,
		filepath.Join(dir, "readings.db"), filepath.Join(dir, "keys"))
}

func edgeConfig(s *Stack) string {
	return fmt.Sprintf(`agent: %q
data: %q
intake:
  mqtt: {listen: %q}
uplink: {dapr_address: %q}
enrol:
  url: %q
  token_file: %q
status: {listen: %q}
`, s.Edge.ID, s.Edge.Data, s.Edge.MQTT, s.addr.edgeGRPC, s.Cloud.URL, s.tokenFile(), s.addr.status)
}

// sidecarArgs are daprd's flags for one side; its component files are the ones
// that the repository ships.
func sidecarArgs(s *Stack, app, side, http, grpc, internal string) []string {
	return []string{
		"--app-id", app,
		"--resources-path", filepath.Join(s.o.Root, "dapr-components", "nats", side),
		"--dapr-listen-addresses", "127.0.0.1",
		"--dapr-http-port", portOf(http),
		"--dapr-grpc-port", portOf(grpc),
		"--dapr-internal-grpc-port", portOf(internal),
		"--dapr-internal-grpc-listen-address", "127.0.0.1",
		"--enable-metrics=false",
		"--dapr-graceful-shutdown-seconds", strconv.Itoa(int(stopLimit.Seconds()) / 2),
		"--log-as-json",
	}
}
