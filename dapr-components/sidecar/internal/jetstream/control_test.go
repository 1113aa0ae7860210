package jetstream

import (
	"testing"
	"time"

	mdutils "github.com/dapr/components-contrib/metadata"
	"github.com/dapr/components-contrib/pubsub"
	stock "github.com/dapr/components-contrib/pubsub/jetstream"
	"github.com/dapr/kit/logger"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-edge/holdfast/dapr-components/sidecar/internal/testbed"
)

// The control of the tests above: Dapr's own component does not start without a server.
func TestControlStockNeedsServer(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t)
	if err := stock.NewJetStream(logger.NewLogger("test")).Init(t.Context(), stockMetadata(n)); err == nil {
		t.Error("Dapr's component started without a server: the tests of a late start prove nothing")
	}
}

// The control of the tests above: a subscription of Dapr's own component whose consumer was deleted stays silent.
func TestControlStockDiesSilently(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t).Start()
	js := admin(t, n)
	cfg := jetstream.StreamConfig{Name: "holdfast-up", Subjects: []string{"up.live"}}
	if _, err := js.CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	c := stock.NewJetStream(logger.NewLogger("test"))
	if err := c.Init(t.Context(), stockMetadata(n)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	got := &inbox{}
	if err := c.Subscribe(t.Context(), pubsub.SubscribeRequest{Topic: "up.live"}, got.take); err != nil {
		t.Fatal(err)
	}
	send := func(text string) {
		t.Helper()
		if err := c.Publish(t.Context(), &pubsub.PublishRequest{Topic: "up.live", Data: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
	send("before")
	got.wait(t, "before", 10*time.Second)
	if err := js.DeleteConsumer(t.Context(), "holdfast-up", "cloud"); err != nil {
		t.Fatal(err)
	}
	send("after")
	time.Sleep(3 * time.Second)
	if got.has("after") {
		t.Error("Dapr's component survived the loss of its consumer: the tests of it prove nothing")
	}
}

func stockMetadata(n *testbed.NATS) pubsub.Metadata {
	return pubsub.Metadata{Base: mdutils.Base{Properties: map[string]string{
		"natsURL": n.URL(), "durableName": "cloud", "queueGroupName": "cloud", "streamName": "holdfast-up",
	}}}
}
