package patient

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/dapr-components/sidecar/internal/testbed"
)

// One broker of several that answers is enough for Kafka; none is an error.
func TestKafkaIsThereWhenOneBrokerIs(t *testing.T) {
	m := testbed.NewKafkaFake(t)
	dead := fmt.Sprintf("127.0.0.1:%d", testbed.FreePort(t))
	props := map[string]string{"brokers": dead + ", " + fmt.Sprintf("127.0.0.1:%d", m.Port)}
	if err := dialKafka(t.Context(), props); err == nil {
		t.Error("no broker answers, and the ping says it is there")
	}
	m.Start()
	if err := dialKafka(t.Context(), props); err != nil {
		t.Error(err)
	}
}

// The connection that keeps watch over MQTT cannot be made without a broker, and reports its death within seconds.
func TestWatchReportsLossOfMosquitto(t *testing.T) {
	t.Parallel()
	s := testbed.NewMosquitto(t)
	watchReportsLoss(t, s, watchMQTT, map[string]string{"url": fmt.Sprintf("mqtt://127.0.0.1:%d", s.Port)})
}

// The connection that keeps watch over RabbitMQ cannot be made without a broker, and reports its death within seconds.
func TestWatchReportsLossOfRabbitMQ(t *testing.T) {
	t.Parallel()
	s := testbed.NewRabbitMQ(t)
	watchReportsLoss(t, s, watchRabbitMQ, map[string]string{"connectionString": fmt.Sprintf("amqp://guest:guest@127.0.0.1:%d/", s.Port)})
}

func watchReportsLoss(t *testing.T, s *testbed.Server, watch func(context.Context, map[string]string) (<-chan struct{}, func(), error), props map[string]string) {
	t.Helper()
	props["consumerID"] = "test"
	if _, _, err := watch(t.Context(), props); err == nil {
		t.Fatal("the watch connected without a broker")
	}
	s.Start()
	var lost <-chan struct{}
	testbed.Eventually(t, 60*time.Second, "the watch connects", func() bool {
		l, stop, err := watch(t.Context(), props)
		if err == nil {
			lost = l
			t.Cleanup(stop)
		}
		return err == nil
	})
	s.Kill()
	select {
	case <-lost:
	case <-time.After(10 * time.Second):
		t.Error("the loss was not reported within 10 s")
	}
}

// A password in an address that cannot be read is not repeated.
func TestBadAddressesHideSecrets(t *testing.T) {
	for _, err := range []error{
		second(watchMQTT(t.Context(), map[string]string{"url": "mqtt://u:s3cret@h:port"})),
		second(watchRabbitMQ(t.Context(), map[string]string{"connectionString": "amqp://u:s3cret@h:port"})),
	} {
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("got %v, want an error without the password", err)
		}
	}
}

// Schemes are understood as Dapr's component understands them.
func TestMQTTSchemes(t *testing.T) {
	f := func(scheme, want string) {
		t.Helper()
		if got := mqttScheme(&url.URL{Scheme: scheme}); got != want {
			t.Errorf("%s: got %s, want %s", scheme, got, want)
		}
	}
	f("mqtt", "tcp")
	f("mqtts", "ssl")
	f("tls", "ssl")
	f("wss", "wss")
}

func second(_ <-chan struct{}, _ func(), err error) error { return err }
