package broker

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/holdfast-edge/holdfast/scripts/internal/loopback"
	"github.com/holdfast-edge/holdfast/scripts/internal/process"
)

// NATS is nats-server with JetStream, built from the module that pins it. It
// syncs always, because by default it acknowledges up to two minutes before.
func NATS() Kind {
	return Kind{
		Name:     "nats",
		variable: "HOLDFAST_NATS_URL",
		url:      func(addr string) string { return "nats://" + addr },
		configure: func(p place) ([]process.Spec, error) {
			return configured(p, "nats-server", "nats.conf", fmt.Sprintf(`listen: %q
http: %q
server_name: holdfast
jetstream {
  store_dir: %q
  sync_interval: always
}
`, p.addr, p.aux[0], p.data()), "-c")
		},
		probe: func(ctx context.Context, p place) error { return probeHTTP(ctx, "http://"+p.aux[0]+"/healthz") },
	}
}

// Mosquitto is the MQTT broker. It stores nothing: the component's sessions are
// clean ones, for which it would keep nothing anyway.
func Mosquitto() Kind {
	return Kind{
		Name:     "mqtt",
		Program:  "mosquitto",
		variable: "HOLDFAST_MQTT_URL",
		url:      func(addr string) string { return "mqtt://" + addr },
		configure: func(p place) ([]process.Spec, error) {
			return configured(p, "mosquitto", "mosquitto.conf", fmt.Sprintf(`listener %s 127.0.0.1
allow_anonymous true
persistence false
max_inflight_messages 200
user root
`, loopback.Port(p.addr)), "-c")
		},
		probe: func(ctx context.Context, p place) error { return converse(ctx, p.addr, "", "") },
	}
}

// Redis appends every command to a file and syncs it once a second, as most
// people run it.
func Redis() Kind {
	return Kind{
		Name:     "redis",
		Program:  "redis-server",
		variable: "HOLDFAST_REDIS_HOST",
		url:      func(addr string) string { return addr },
		configure: func(p place) ([]process.Spec, error) {
			return configured(p, "redis-server", "redis.conf", fmt.Sprintf(`bind 127.0.0.1
port %s
dir %q
appendonly yes
appendfsync everysec
save ""
`, loopback.Port(p.addr), p.data()))
		},
		probe: func(ctx context.Context, p place) error { return converse(ctx, p.addr, "PING\r\n", "+PONG") },
	}
}

// Kafka is known by name only: no machine at hand has had one installed.
func Kafka() Kind {
	return Kind{
		Name:     "kafka",
		Program:  "kafka-server-start.sh",
		variable: "HOLDFAST_KAFKA_BROKERS",
		url:      func(addr string) string { return addr },
		configure: func(place) ([]process.Spec, error) {
			return nil, fmt.Errorf("it was never run by this suite: %w", ErrNotInstalled)
		},
		probe: func(context.Context, place) error { return ErrNotInstalled },
	}
}

// configured is a broker that reads one file, named after the arguments.
func configured(p place, name, file, text string, args ...string) ([]process.Spec, error) {
	path := filepath.Join(p.dir, file)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return []process.Spec{{Name: name, Path: p.program, Args: append(args, path)}}, nil
}
