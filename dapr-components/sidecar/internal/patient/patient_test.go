package patient

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dapr/components-contrib/pubsub"
	"github.com/dapr/kit/logger"

	"github.com/holdfast-edge/holdfast/dapr-components/sidecar/internal/testbed"
)

// world is a broker that may be away, and the components that were made to talk to it.
type world struct {
	mu     sync.Mutex
	away   bool
	made   []*fake
	refuse error // what Publish answers while the broker is there
	hang   bool  // Publish never answers
}

type fake struct {
	w      *world
	mu     sync.Mutex
	subs   map[string]pubsub.Handler
	closed atomic.Bool
	stop   chan struct{}
}

var errAway = errors.New("connection refused")

func (w *world) is(away bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.away = away
}

func (w *world) isAway() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.away
}

func (w *world) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.made)
}

func (w *world) last() *fake {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.made[len(w.made)-1]
}

func (w *world) new(logger.Logger) pubsub.PubSub {
	f := &fake{w: w, subs: map[string]pubsub.Handler{}, stop: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.made = append(w.made, f)
	return f
}

func (f *fake) Init(context.Context, pubsub.Metadata) error {
	if f.w.isAway() {
		return errAway
	}
	return nil
}

func (f *fake) Features() []pubsub.Feature { return nil }

func (f *fake) Publish(context.Context, *pubsub.PublishRequest) error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	switch {
	case f.w.hang:
		f.w.mu.Unlock()
		<-f.stop
		f.w.mu.Lock()
		return nil // as Dapr's rabbitmq does
	case f.w.away:
		return errAway
	}
	return f.w.refuse
}

func (f *fake) Subscribe(_ context.Context, req pubsub.SubscribeRequest, h pubsub.Handler) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subs[req.Topic] = h
	return nil
}

func (f *fake) deliver(topic string) error {
	f.mu.Lock()
	h := f.subs[topic]
	f.mu.Unlock()
	return h(context.Background(), &pubsub.NewMessage{Topic: topic})
}

func (f *fake) topics() (ts []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for t := range f.subs {
		ts = append(ts, t)
	}
	slices.Sort(ts)
	return ts
}

func (f *fake) Close() error {
	if f.closed.CompareAndSwap(false, true) {
		close(f.stop)
	}
	return nil
}

type pinging struct{ *fake }

func (p pinging) Ping(context.Context) error {
	if p.w.isAway() {
		return errAway
	}
	return nil
}

func begin(t *testing.T, b Broker) *Component {
	t.Helper()
	return beginWith(t, b, map[string]string{"url": "x"})
}

func beginWith(t *testing.T, b Broker, props map[string]string) *Component {
	t.Helper()
	c := b.Wrap()(logger.NewLogger("test")).(*Component)
	if err := c.Init(t.Context(), pubsub.Metadata{Base: base(props)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func publish(c *Component) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return c.Publish(ctx, &pubsub.PublishRequest{Topic: "t"})
}

func handle(context.Context, *pubsub.NewMessage) error { return nil }

// Without a broker Init succeeds at once, Publish fails at once with the reason, and subscriptions wait; with it all work, within maxWait.
func TestBrokerComesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{away: true}
		c := begin(t, Broker{New: w.new})
		if err := c.Subscribe(t.Context(), pubsub.SubscribeRequest{Topic: "up"}, handle); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		began := time.Now()
		if err := publish(c); !errors.Is(err, ErrNotReady) || !errors.Is(err, errAway) {
			t.Errorf("publish: got %v, want ErrNotReady with the reason", err)
		}
		if err := c.Ping(t.Context()); !errors.Is(err, ErrNotReady) {
			t.Errorf("ping: got %v, want ErrNotReady", err)
		}
		if time.Since(began) != 0 {
			t.Errorf("publish took %v, want none", time.Since(began))
		}
		if n := w.count(); n < 20 || n > 200 {
			t.Errorf("%d attempts in ten minutes, want between 20 and 200", n)
		}
		w.is(false)
		time.Sleep(maxWait)
		synctest.Wait()
		if err := publish(c); err != nil {
			t.Errorf("publish with a broker: %v", err)
		}
		if got := w.last().topics(); !slices.Equal(got, []string{"up"}) {
			t.Errorf("subscribed to %q, want up", got)
		}
	})
}

// Where the file asks for it, a subscriber gets an empty message each time its subscription stands, also after the broker was away, and
// the component inside knows nothing of the setting; elsewhere it gets none.
func TestAnnouncesSubscriptions(t *testing.T) {
	for asked, want := range map[string]int32{"true": 2, "false": 0, "": 0} {
		synctest.Test(t, func(t *testing.T) {
			w := &world{}
			var seen map[string]string
			c := beginWith(t, Broker{New: w.new, Prepare: func(props map[string]string) { seen = props }}, map[string]string{"url": "x", "announce": asked})
			var told atomic.Int32
			err := c.Subscribe(t.Context(), pubsub.SubscribeRequest{Topic: "down"}, func(_ context.Context, m *pubsub.NewMessage) error {
				if m.Topic != "down" || len(m.Data) > 0 {
					t.Errorf("told %+v", m)
				}
				told.Add(1)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(maxWait)
			w.is(true)
			for range deadAfter {
				_ = publish(c)
			}
			time.Sleep(time.Minute)
			w.is(false)
			time.Sleep(2 * maxWait)
			if n := told.Load(); n != want {
				t.Errorf("announce %q: told %d times, want %d", asked, n, want)
			}
			if _, there := seen["announce"]; there {
				t.Error("the component inside was handed the setting")
			}
		})
	}
}

// Where the broker wants it each subscription has a component of its own, which is closed with the subscription and with the life; another
// subscription of the same topic disturbs nobody.
func TestSubscriptionsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		c := begin(t, Broker{New: w.new, Alone: true})
		time.Sleep(maxWait)
		first, end := context.WithCancel(t.Context())
		for _, ctx := range []context.Context{first, t.Context(), t.Context()} {
			if err := c.Subscribe(ctx, pubsub.SubscribeRequest{Topic: "t"}, handle); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if w.count() != 4 {
			t.Fatalf("%d components for three subscriptions and what is published, want 4", w.count())
		}
		end()
		synctest.Wait()
		for i, want := range []bool{false, true, false, false} {
			if got := w.made[i].closed.Load(); got != want {
				t.Errorf("component %d closed: %t, want %t", i, got, want)
			}
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		for i, f := range w.made {
			if !f.closed.Load() {
				t.Errorf("component %d is left open", i)
			}
		}
	})
}

// Components that failed to start are closed, and those at work are closed with the wrapper.
func TestNothingIsLeftOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{away: true}
		c := begin(t, Broker{New: w.new})
		time.Sleep(time.Minute)
		w.is(false)
		time.Sleep(maxWait)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		for i, f := range w.made {
			if !f.closed.Load() {
				t.Errorf("component %d of %d was not closed", i, len(w.made))
			}
		}
		if err := publish(c); !errors.Is(err, ErrClosed) {
			t.Errorf("publish after close: got %v, want ErrClosed", err)
		}
		if err := c.Subscribe(t.Context(), pubsub.SubscribeRequest{Topic: "t"}, handle); !errors.Is(err, ErrClosed) {
			t.Errorf("subscribe after close: got %v, want ErrClosed", err)
		}
	})
}

// Three publishes that fail in a row cost the component its place; the next one has all subscriptions.
func TestFailingPublishesReplaceComponent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		c := begin(t, Broker{New: w.new})
		time.Sleep(time.Second)
		for _, topic := range []string{"a", "b"} {
			if err := c.Subscribe(t.Context(), pubsub.SubscribeRequest{Topic: topic}, handle); err != nil {
				t.Fatal(err)
			}
		}
		first := w.last()
		w.is(true)
		for range deadAfter {
			_ = publish(c)
		}
		synctest.Wait()
		if !first.closed.Load() {
			t.Fatal("the component that failed is still there")
		}
		w.is(false)
		time.Sleep(maxWait)
		if w.last() == first || !slices.Equal(w.last().topics(), []string{"a", "b"}) {
			t.Errorf("the new component is subscribed to %q, want a and b", w.last().topics())
		}
		if err := publish(c); err != nil {
			t.Error(err)
		}
	})
}

// A failure now and then is not death, and neither is a caller that goes away.
func TestSingleFailuresReplaceNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		c := begin(t, Broker{New: w.new})
		time.Sleep(time.Second)
		for range 10 {
			w.refuse = errors.New("too large")
			_ = publish(c)
			_ = publish(c)
			w.refuse = nil
			_ = publish(c)
		}
		w.hang = true
		for range 10 {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			if err := c.Publish(ctx, &pubsub.PublishRequest{}); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want Canceled", err)
			}
		}
		if n := w.count(); n != 1 {
			t.Errorf("%d components were made, want 1", n)
		}
	})
}

// A component that never answers is not waited for longer than the caller does, holds at most 64 callers, and is replaced.
func TestHangingPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{hang: true}
		c := begin(t, Broker{New: w.new})
		time.Sleep(time.Second)
		var busy, late atomic.Int32
		var wg sync.WaitGroup
		for range maxInFlight + 10 {
			wg.Go(func() {
				switch err := publish(c); {
				case err == nil:
					t.Error("a publish that nobody answered succeeded")
				case strings.Contains(err.Error(), "waiting for it already"):
					busy.Add(1)
				default:
					late.Add(1)
				}
			})
		}
		wg.Wait()
		if busy.Load() != 10 || late.Load() != maxInFlight {
			t.Errorf("%d were refused and %d gave up, want 10 and %d", busy.Load(), late.Load(), maxInFlight)
		}
		time.Sleep(maxWait)
		if w.count() < 2 {
			t.Error("the component that hung was not replaced")
		}
	})
}

// A component that can be asked is replaced when it does not answer three times, without anybody publishing.
func TestPingFindsDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		c := begin(t, Broker{New: func(l logger.Logger) pubsub.PubSub { return pinging{w.new(l).(*fake)} }})
		time.Sleep(time.Second)
		first := w.last()
		w.is(true)
		time.Sleep(time.Minute)
		if !first.closed.Load() {
			t.Error("a dead component was not found within a minute")
		}
		w.is(false)
		time.Sleep(maxWait)
		if err := c.Ping(t.Context()); err != nil {
			t.Errorf("ping: %v", err)
		}
	})
}

// A broker that is watched is replaced as soon as the watching connection is lost.
func TestWatchFindsLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		lost := make(chan struct{})
		var stopped atomic.Int32
		watch := func(context.Context, map[string]string) (<-chan struct{}, func(), error) {
			if w.isAway() {
				return nil, nil, errAway
			}
			return lost, func() { stopped.Add(1) }, nil
		}
		c := begin(t, Broker{New: w.new, Watch: watch})
		time.Sleep(time.Second)
		w.is(true)
		close(lost)
		synctest.Wait()
		if !w.last().closed.Load() || stopped.Load() != 1 {
			t.Errorf("closed %v, watch stopped %d times, want true and once", w.last().closed.Load(), stopped.Load())
		}
		if err := publish(c); !errors.Is(err, ErrNotReady) {
			t.Errorf("publish: got %v, want ErrNotReady", err)
		}
		if n := w.count(); n != 1 {
			t.Errorf("%d components were made while the watch could not connect, want 1", n)
		}
	})
}

// With Renew a topic that is subscribed a second time gets a new connection, on which other topics stay subscribed.
func TestRenewOnSecondSubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		c := begin(t, Broker{New: w.new, Renew: true})
		time.Sleep(time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		for _, s := range []struct {
			ctx   context.Context
			topic string
		}{{t.Context(), "other"}, {ctx, "down"}} {
			if err := c.Subscribe(s.ctx, pubsub.SubscribeRequest{Topic: s.topic}, handle); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		if err := c.Subscribe(t.Context(), pubsub.SubscribeRequest{Topic: "down"}, handle); err != nil {
			t.Fatal(err)
		}
		time.Sleep(maxWait)
		if w.count() != 2 || !slices.Equal(w.last().topics(), []string{"down", "other"}) {
			t.Errorf("%d components, the last with %q, want 2 with down and other", w.count(), w.last().topics())
		}
	})
}

// Two subscribers of one topic do not make components for ever; when one ends the other gets a new one, which knows only it.
func TestRenewWithTwoSubscribers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		c := begin(t, Broker{New: w.new, Renew: true})
		time.Sleep(time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		for _, ctx := range []context.Context{ctx, t.Context()} {
			if err := c.Subscribe(ctx, pubsub.SubscribeRequest{Topic: "down"}, handle); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Minute)
		if w.count() != 2 {
			t.Errorf("%d components were made for two subscribers, want 2", w.count())
		}
		cancel()
		time.Sleep(maxWait)
		if w.count() != 3 || !slices.Equal(w.last().topics(), []string{"down"}) {
			t.Errorf("%d components, the last with %q, want 3 with down", w.count(), w.last().topics())
		}
	})
}

// A refusal reaches the component after a pause that grows, so that a message that is given back at once is not asked for in a loop.
func TestRefusalIsHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		c := begin(t, Broker{New: w.new})
		time.Sleep(time.Second)
		refused := errors.New("not now")
		var calls int
		h := func(context.Context, *pubsub.NewMessage) error { calls++; return refused }
		if err := c.Subscribe(t.Context(), pubsub.SubscribeRequest{Topic: "t"}, h); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		began := time.Now()
		for range 10 {
			if err := w.last().deliver("t"); !errors.Is(err, refused) {
				t.Errorf("got %v, want the handler's error", err)
			}
		}
		if d := time.Since(began); calls != 10 || d < 10*time.Second || d > time.Minute {
			t.Errorf("%d calls in %v, want 10 in 10 s to a minute", calls, d)
		}
	})
}

// With Insist a handler is asked until it takes the message; an end of the subscription ends that as well.
func TestInsistAsksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		c := begin(t, Broker{New: w.new, Insist: true})
		time.Sleep(time.Second)
		var calls int
		h := func(context.Context, *pubsub.NewMessage) error {
			if calls++; calls < 5 {
				return errors.New("not now")
			}
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		if err := c.Subscribe(ctx, pubsub.SubscribeRequest{Topic: "t"}, h); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := w.last().deliver("t"); err != nil || calls != 5 {
			t.Errorf("got %v after %d calls, want nil after 5", err, calls)
		}
		calls = -1000
		time.AfterFunc(10*time.Second, cancel)
		began := time.Now()
		if err := w.last().deliver("t"); err == nil || time.Since(began) > 11*time.Second {
			t.Errorf("got %v after %v, want an error when the subscription ends", err, time.Since(began))
		}
	})
}

// A subscription that has ended is not made again.
func TestEndedSubscriptionStaysEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{away: true}
		c := begin(t, Broker{New: w.new})
		ctx, cancel := context.WithCancel(t.Context())
		if err := c.Subscribe(ctx, pubsub.SubscribeRequest{Topic: "gone"}, handle); err != nil {
			t.Fatal(err)
		}
		cancel()
		synctest.Wait()
		w.is(false)
		time.Sleep(maxWait)
		if got := w.last().topics(); len(got) != 0 {
			t.Errorf("subscribed to %q, want nothing", got)
		}
	})
}

// Metadata without which nothing can work is refused at once, and names what is missing.
func TestMissingMetadataIsRefused(t *testing.T) {
	c := Redis().Wrap()(logger.NewLogger("test"))
	err := c.Init(t.Context(), pubsub.Metadata{Base: base(map[string]string{"redisHost": " "})})
	if err == nil || !strings.Contains(err.Error(), "redisHost") {
		t.Errorf("got %v, want an error that names redisHost", err)
	}
}

// A client without a session gets an id of its own each time, one with a session keeps it.
func TestClientIDs(t *testing.T) {
	f := func(clean string, same bool) {
		t.Helper()
		a, b := map[string]string{"consumerID": "x", "cleanSession": clean}, map[string]string{"consumerID": "x", "cleanSession": clean}
		freshClientID(a)
		freshClientID(b)
		if (a["consumerID"] == b["consumerID"]) != same {
			t.Errorf("cleanSession %q: ids %q and %q", clean, a["consumerID"], b["consumerID"])
		}
	}
	f("true", false)
	f("false", true)
	f("", true)
}

func TestMain(m *testing.M) {
	code := m.Run()
	testbed.Clean()
	os.Exit(code)
}
