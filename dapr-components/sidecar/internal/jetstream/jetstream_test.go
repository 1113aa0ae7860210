package jetstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	mdutils "github.com/dapr/components-contrib/metadata"
	"github.com/dapr/components-contrib/pubsub"
	"github.com/dapr/kit/logger"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-edge/holdfast/dapr-components/sidecar/internal/testbed"
)

// Init does not wait for a server, Publish does not wait for a connection, and both work once the server is there.
func TestStartsWithoutServer(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t)
	began := time.Now()
	c := start(t, n, nil)
	if d := time.Since(began); d > 100*time.Millisecond {
		t.Errorf("Init took %v, want it at once", d)
	}
	got := listen(t, c, "up.live")
	began = time.Now()
	err := publish(t, c, "up.live", "early")
	if !errors.Is(err, ErrNotConnected) || time.Since(began) > 100*time.Millisecond {
		t.Errorf("publish without a server: %v after %v, want ErrNotConnected at once", err, time.Since(began))
	}
	if err := c.Ping(t.Context()); !errors.Is(err, ErrNotConnected) {
		t.Errorf("ping without a server: got %v, want ErrNotConnected", err)
	}
	n.Start()
	publishUntil(t, c, "up.live", "late")
	got.wait(t, "late", 10*time.Second)
}

// A publish that waits for its answer fails when the connection is lost, and does not wait out its deadline.
func TestPublishFailsWithConnection(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t).Start()
	c := start(t, n, nil)
	testbed.Eventually(t, 10*time.Second, "connected", func() bool { return c.Ping(t.Context()) == nil })
	admin := connect(t, n)
	// Somebody takes the message and never answers: the publisher waits.
	if _, err := admin.Subscribe("nobody", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	if err := admin.Flush(); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(500*time.Millisecond, n.Kill)
	began := time.Now()
	err := publish(t, c, "nobody", "x")
	if !errors.Is(err, ErrNotConnected) || time.Since(began) > 5*time.Second {
		t.Errorf("publish over a connection that is lost: %v after %v, want ErrNotConnected soon", err, time.Since(began))
	}
}

// A caller's deadline ends a publish, and nil is never returned for it.
func TestPublishHonoursDeadline(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t).Start()
	c := start(t, n, nil)
	testbed.Eventually(t, 10*time.Second, "connected", func() bool { return c.Ping(t.Context()) == nil })
	admin := connect(t, n)
	if _, err := admin.Subscribe("nobody", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	if err := admin.Flush(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := c.Publish(ctx, &pubsub.PublishRequest{Topic: "nobody", Data: []byte("x")})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want DeadlineExceeded", err)
	}
}

// A message for which there is no stream is an error, not a loss; and the missing stream is made again on that occasion.
func TestPublishRemakesDeletedStream(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t).Start()
	c := start(t, n, map[string]string{"checkInterval": "1h"})
	publishUntil(t, c, "up.live", "one")
	js := admin(t, n)
	if err := js.DeleteStream(t.Context(), "holdfast-up"); err != nil {
		t.Fatal(err)
	}
	if err := publish(t, c, "up.live", "two"); err == nil {
		t.Error("a publish that no stream takes was accepted")
	}
	publishUntil(t, c, "up.live", "three")
}

// A consumer that vanishes while the connection stays up is the silent death: publishing works, nothing arrives. The check finds it.
func TestSubscriptionSurvivesDeletedConsumer(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t).Start()
	c := start(t, n, map[string]string{"checkInterval": "1s"})
	got := listen(t, c, "up.live")
	publishUntil(t, c, "up.live", "before")
	got.wait(t, "before", 10*time.Second)
	if err := admin(t, n).DeleteConsumer(t.Context(), "holdfast-up", "cloud-api_up_live"); err != nil {
		t.Fatal(err)
	}
	publishUntil(t, c, "up.live", "after")
	got.wait(t, "after", 10*time.Second)
}

// Both streams deleted under a living subscription, as by an operator, are made again with their consumers.
func TestSubscriptionSurvivesDeletedStreams(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t).Start()
	c := start(t, n, map[string]string{"checkInterval": "1s"})
	got := listen(t, c, "up.backlog")
	publishUntil(t, c, "up.backlog", "before")
	got.wait(t, "before", 10*time.Second)
	js := admin(t, n)
	for _, s := range []string{"holdfast-up", "holdfast-down"} {
		if err := js.DeleteStream(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	publishUntil(t, c, "up.backlog", "after")
	got.wait(t, "after", 10*time.Second)
}

// Settings that changed in the file reach the consumer that is there: what can be updated is, what cannot is made anew behind the
// last acknowledged message, and nothing is delivered from the beginning.
func TestChangedSettingsReachConsumer(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t).Start()
	old := start(t, n, nil)
	got := listen(t, old, "up.live")
	publishUntil(t, old, "up.live", "seen")
	got.wait(t, "seen", 10*time.Second)
	time.Sleep(300 * time.Millisecond) // the acknowledgement reaches the server
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	for i, change := range []map[string]string{
		{"ackWait": "45s", "maxAckPending": "17"},
		{"ackWait": "45s", "maxAckPending": "17", "ackPolicy": "all"},
		{"ackWait": "45s", "maxAckPending": "17", "queueGroupName": "other"},
	} {
		c := start(t, n, change)
		got := listen(t, c, "up.live")
		text := fmt.Sprint("new ", i)
		publishUntil(t, c, "up.live", text)
		got.wait(t, text, 10*time.Second)
		if got.has("seen") {
			t.Errorf("change %d: what was acknowledged came again", i)
		}
		info := consumer(t, n, "holdfast-up", "cloud-api_up_live")
		if info.Config.AckWait != 45*time.Second || info.Config.MaxAckPending != 17 {
			t.Errorf("change %d: consumer has ackWait %v and maxAckPending %d, want 45s and 17", i, info.Config.AckWait, info.Config.MaxAckPending)
		}
		time.Sleep(300 * time.Millisecond)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// The streams get the file's limits when the process starts, and keep what an operator sets while it runs.
func TestStreamLimitsAreAppliedAtStart(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t).Start()
	first := start(t, n, nil)
	publishUntil(t, first, "up.live", "x")
	c := start(t, n, map[string]string{"upMaxBytes": "64Mi", "checkInterval": "1s"})
	js := admin(t, n)
	testbed.Eventually(t, 10*time.Second, "upMaxBytes is applied", func() bool { return streamConfig(t, js, "holdfast-up").MaxBytes == 64<<20 })
	cfg := streamConfig(t, js, "holdfast-up")
	cfg.MaxBytes = 32 << 20
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2500 * time.Millisecond)
	if got := streamConfig(t, js, "holdfast-up").MaxBytes; got != 32<<20 {
		t.Errorf("the operator's max_bytes was changed to %d", got)
	}
	if cfg := streamConfig(t, js, "holdfast-down"); cfg.MaxMsgsPerSubject != 1 {
		t.Errorf("holdfast-down keeps %d messages a subject, want 1", cfg.MaxMsgsPerSubject)
	}
	_ = c
}

// An edge that is new gets the last receipt at once, and only that one.
func TestNewEdgeGetsLastReceipt(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t).Start()
	cloud := start(t, n, nil)
	publishUntil(t, cloud, "down.greenhouse-1", "first")
	publishUntil(t, cloud, "down.greenhouse-1", "last")
	publishUntil(t, cloud, "down.greenhouse-2", "not mine")
	edge := start(t, n, map[string]string{"createStreams": "false", "consumerID": "edge-agent"})
	got := listen(t, edge, "down.greenhouse-1")
	got.wait(t, "last", 10*time.Second)
	if all := got.all(); !slices.Equal(all, []string{"last"}) {
		t.Errorf("got %q, want only the last receipt", all)
	}
}

// An edge's credential reaches its own lanes and its own receipts: no streams made, none looked at.
func TestEdgeCredentialSuffices(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t)
	n.Conf = `authorization { users = [
  { user: cloud, password: c }
  { user: edge, password: e, permissions: {
    publish: [ "up.live", "up.backlog",
      "$JS.API.CONSUMER.INFO.holdfast-down.edge-agent_down_greenhouse-1",
      "$JS.API.CONSUMER.CREATE.holdfast-down.edge-agent_down_greenhouse-1.down.greenhouse-1",
      "$JS.ACK.holdfast-down.edge-agent_down_greenhouse-1.>" ]
    subscribe: [ "_INBOX_greenhouse-1.>" ] } }
] }`
	n.Start()
	cloud := start(t, n, map[string]string{"user": "cloud", "password": "c"})
	frames := listen(t, cloud, "up.live")
	edge := start(t, n, map[string]string{
		"user": "edge", "password": "e", "inboxPrefix": "_INBOX_greenhouse-1", "createStreams": "false", "consumerID": "edge-agent",
	})
	receipts := listen(t, edge, "down.greenhouse-1")
	publishUntil(t, edge, "up.live", "frame")
	frames.wait(t, "frame", 10*time.Second)
	publishUntil(t, cloud, "down.greenhouse-1", "receipt")
	receipts.wait(t, "receipt", 10*time.Second)
	if err := publish(t, edge, "down.greenhouse-1", "forged"); err == nil {
		t.Error("an edge could publish a receipt")
	}
}

// Wrong credentials are tried again for ever: the server may have been told of them too late.
func TestWrongCredentialsAreTriedAgain(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t)
	n.Conf = `authorization { user: a, password: right }`
	n.Start()
	c := start(t, n, map[string]string{"user": "a", "password": "new"})
	time.Sleep(4 * time.Second) // the client library itself gives up after two refusals
	n.Kill()
	n.Conf = `authorization { user: a, password: new }`
	n.Start()
	publishUntil(t, c, "up.live", "x")
}

// Two subscribers of one app share the messages, and the one that stays takes over those that the other has not looked at.
func TestSubscribersShare(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t).Start()
	a, b := start(t, n, nil), start(t, n, nil)
	gotA, gotB := listen(t, a, "up.live"), listen(t, b, "up.live")
	for i := range 40 {
		publishUntil(t, a, "up.live", fmt.Sprint(i))
	}
	testbed.Eventually(t, 10*time.Second, "all arrive", func() bool { return len(gotA.all())+len(gotB.all()) >= 40 })
	if len(gotA.all()) == 0 || len(gotB.all()) == 0 {
		t.Errorf("got %d and %d, want both to have some", len(gotA.all()), len(gotB.all()))
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	publishUntil(t, b, "up.live", "alone")
	gotB.wait(t, "alone", 10*time.Second)
}

// What lies in the queue of a subscription that ends is delivered to the next one at once, not after ackWait.
func TestEndedSubscriptionGivesBack(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t).Start()
	c := start(t, n, nil)
	ctx, cancel := context.WithCancel(t.Context())
	entered := make(chan struct{}, 100)
	err := c.Subscribe(ctx, pubsub.SubscribeRequest{Topic: "up.live"}, func(ctx context.Context, _ *pubsub.NewMessage) error {
		entered <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		publishUntil(t, c, "up.live", fmt.Sprint(i))
	}
	<-entered
	cancel()
	got := listen(t, c, "up.live")
	testbed.Eventually(t, 10*time.Second, "all twenty", func() bool { return len(got.unique()) == 20 })
}

// A handler that takes longer than ackWait is not given the message a second time meanwhile.
func TestSlowHandlerIsNotAskedTwice(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t).Start()
	c := start(t, n, map[string]string{"ackWait": "1s"})
	got := &inbox{delay: 3500 * time.Millisecond}
	if err := c.Subscribe(t.Context(), pubsub.SubscribeRequest{Topic: "up.live"}, got.take); err != nil {
		t.Fatal(err)
	}
	publishUntil(t, c, "up.live", "slow")
	time.Sleep(6 * time.Second)
	if all := got.all(); len(all) != 1 {
		t.Errorf("delivered %d times, want once", len(all))
	}
}

func start(t *testing.T, n *testbed.NATS, props map[string]string) *Component {
	t.Helper()
	all := map[string]string{"natsURL": n.URL(), "consumerID": "cloud-api", "createStreams": "true"}
	for k, v := range props {
		all[k] = v
	}
	c := New(logger.NewLogger("test")).(*Component)
	if err := c.Init(t.Context(), pubsub.Metadata{Base: mdutils.Base{Properties: all}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// A server that keeps its connections open and says nothing is found dead within a minute, and found again when it answers.
func TestFrozenServerIsFound(t *testing.T) {
	if !testbed.Long() {
		t.Skip("it takes up to a minute: HOLDFAST_TEST_LONG=1 runs it")
	}
	t.Parallel()
	n := testbed.NewNATS(t).Start()
	c := start(t, n, nil)
	testbed.Eventually(t, 10*time.Second, "connected", func() bool { return c.Ping(t.Context()) == nil })
	n.Freeze()
	began := time.Now()
	testbed.Eventually(t, time.Minute, "found dead", func() bool { return c.Ping(t.Context()) != nil })
	t.Logf("found dead after %.1f s", time.Since(began).Seconds())
	n.Kill()
	n.Start()
	testbed.Eventually(t, 30*time.Second, "connected again", func() bool { return c.Ping(t.Context()) == nil })
}

// Where the file asks for it, a subscriber gets an empty message when it stands on a connection, and one more for each connection after
// that; elsewhere it gets none.
func TestAnnouncesConnections(t *testing.T) {
	t.Parallel()
	n := testbed.NewNATS(t)
	told := listen(t, start(t, n, map[string]string{"announce": "true", "checkInterval": "1s"}), "down.one")
	quiet := listen(t, start(t, n, map[string]string{"name": "quiet"}), "down.two")
	for connections := 1; connections <= 2; connections++ {
		n.Start()
		testbed.Eventually(t, 30*time.Second, "told of the connection", func() bool { return len(told.all()) == connections })
		n.Kill()
	}
	for _, text := range append(told.all(), quiet.all()...) {
		if text != "" {
			t.Errorf("got %q that nobody sent", text)
		}
	}
	if all := quiet.all(); len(all) > 0 {
		t.Errorf("who did not ask was told %d times", len(all))
	}
}

func publish(t *testing.T, c *Component, topic, text string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return c.Publish(ctx, &pubsub.PublishRequest{Topic: topic, Data: []byte(text), Metadata: map[string]string{"rawPayload": "true"}})
}

func publishUntil(t *testing.T, c *Component, topic, text string) {
	t.Helper()
	testbed.Eventually(t, 20*time.Second, "published "+text, func() bool { return publish(t, c, topic, text) == nil })
}

func connect(t *testing.T, n *testbed.NATS) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func admin(t *testing.T, n *testbed.NATS) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(connect(t, n))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func consumer(t *testing.T, n *testbed.NATS, stream, name string) *jetstream.ConsumerInfo {
	t.Helper()
	c, err := admin(t, n).PushConsumer(t.Context(), stream, name)
	if err != nil {
		t.Fatal(err)
	}
	return c.CachedInfo()
}

func streamConfig(t *testing.T, js jetstream.JetStream, name string) jetstream.StreamConfig {
	t.Helper()
	s, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().Config
}

// inbox is a handler that keeps what it is given.
type inbox struct {
	delay time.Duration
	mu    sync.Mutex
	got   []string
}

func listen(t *testing.T, c *Component, topic string) *inbox {
	t.Helper()
	i := &inbox{}
	if err := c.Subscribe(t.Context(), pubsub.SubscribeRequest{Topic: topic}, i.take); err != nil {
		t.Fatal(err)
	}
	return i
}

func (i *inbox) take(_ context.Context, m *pubsub.NewMessage) error {
	i.mu.Lock()
	i.got = append(i.got, string(m.Data))
	i.mu.Unlock()
	time.Sleep(i.delay)
	return nil
}

func (i *inbox) all() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.got)
}

func (i *inbox) unique() []string {
	all := i.all()
	slices.Sort(all)
	return slices.Compact(all)
}

func (i *inbox) has(text string) bool { return slices.Contains(i.all(), text) }

func (i *inbox) wait(t *testing.T, text string, within time.Duration) {
	t.Helper()
	testbed.Eventually(t, within, "received "+text, func() bool { return i.has(text) })
}
