package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/dapr-components/sidecar/internal/testbed"
)

// Over Mosquitto: sidecars start before it, outlive it, and find it again when it has lost everything.
func TestMosquitto(t *testing.T) {
	t.Parallel()
	s := testbed.NewMosquitto(t)
	w := newWay(t, "mqtt", fmt.Sprintf("HOLDFAST_MQTT_URL=mqtt://127.0.0.1:%d", s.Port))
	faults(t, w, s)
}

// Over Redis: sidecars start before it, outlive it, and find it again when it has lost everything.
func TestRedis(t *testing.T) {
	t.Parallel()
	s := testbed.NewRedis(t)
	w := newWay(t, "redis", fmt.Sprintf("HOLDFAST_REDIS_HOST=127.0.0.1:%d", s.Port))
	faults(t, w, s)
}

// Over RabbitMQ: sidecars start before it, outlive it, and find it again when it has lost everything.
func TestRabbitMQ(t *testing.T) {
	t.Parallel()
	s := testbed.NewRabbitMQ(t)
	w := newWay(t, "rabbitmq", fmt.Sprintf("HOLDFAST_RABBITMQ_URL=amqp://guest:guest@127.0.0.1:%d/", s.Port))
	faults(t, w, s)
}

// Over Kafka's protocol, spoken by a stand-in: sidecars start before it, outlive it, and find it again when it has lost everything.
func TestKafkaProtocol(t *testing.T) {
	t.Parallel()
	s := testbed.NewKafkaFake(t)
	w := newWay(t, "kafka", fmt.Sprintf("HOLDFAST_KAFKA_BROKERS=127.0.0.1:%d", s.Port), "HOLDFAST_KAFKA_AUTH=none", "HOLDFAST_KAFKA_DISABLE_TLS=true")
	faults(t, w, s)
}

// faults lets a broker start late, be away, and be wiped; after each the way works again within a minute and a half.
func faults(t *testing.T, w *way, s *testbed.Server) {
	t.Helper()
	const soon = 90 * time.Second
	time.Sleep(2 * time.Second)
	w.failsFast()
	s.Start()
	w.both(soon)

	s.Kill()
	outage := 5 * time.Second
	if testbed.Long() {
		outage = 3 * time.Minute
	}
	time.Sleep(outage)
	w.healthy()
	s.Start()
	w.both(soon)

	s.Wipe()
	w.both(soon)

	w.edge.Kill()
	w.startEdge()
	w.both(soon)

	w.restartAgents(soon)
}
