package dapr

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	pb "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"
)

// sidecar is as much of daprd as the client talks to.
type sidecar struct {
	pb.UnimplementedDaprServer

	mu        sync.Mutex
	published []*pb.PublishEventRequest
	tokens    []string
	fail      error
	hang      bool            // neither publish nor subscribe is answered
	feed      chan []byte     // to the subscriber
	streams   int             // opened
	cut       context.Context // ends the streams
	answered  []string        // ids of events that were acknowledged
}

func (s *sidecar) PublishEvent(ctx context.Context, r *pb.PublishEventRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	md, _ := metadata.FromIncomingContext(ctx)
	s.published, s.tokens = append(s.published, r), append(s.tokens, md.Get("dapr-api-token")...)
	fail, hang := s.fail, s.hang
	s.mu.Unlock()
	if hang {
		<-ctx.Done()
	}
	return &emptypb.Empty{}, fail
}

func (s *sidecar) SubscribeTopicEventsAlpha1(stream pb.Dapr_SubscribeTopicEventsAlpha1Server) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	s.mu.Lock()
	s.streams++
	cut, fail := s.cut, s.fail
	s.mu.Unlock()
	if fail != nil {
		return fail
	}
	if err := stream.Send(&pb.SubscribeTopicEventsResponseAlpha1{
		SubscribeTopicEventsResponseType: &pb.SubscribeTopicEventsResponseAlpha1_InitialResponse{},
	}); err != nil {
		return err
	}
	for {
		select {
		case data := <-s.feed:
			event := &pb.TopicEventRequest{Id: fmt.Sprintf("%x", data), Data: data, DataContentType: "application/octet-stream"}
			err := stream.Send(&pb.SubscribeTopicEventsResponseAlpha1{
				SubscribeTopicEventsResponseType: &pb.SubscribeTopicEventsResponseAlpha1_EventMessage{EventMessage: event},
			})
			if err != nil {
				return err
			}
			answer, err := stream.Recv()
			if err != nil {
				return err
			}
			s.mu.Lock()
			s.answered = append(s.answered, answer.GetEventProcessed().GetId()+" "+answer.GetEventProcessed().GetStatus().GetStatus().String())
			s.mu.Unlock()
		case <-cut.Done():
			return errors.New("cut")
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (s *sidecar) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *sidecar) start(t *testing.T, address string) (stop func(), at string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterDaprServer(server, s)
	go func() { _ = server.Serve(l) }() // until Stop
	t.Cleanup(server.Stop)
	return server.Stop, l.Addr().String()
}

func newSidecar() *sidecar {
	return &sidecar{feed: make(chan []byte), cut: context.Background()}
}

func connect(t *testing.T, address string) *Client {
	t.Helper()
	c, err := New(Options{
		Address: address, Token: "secret", PubSub: "holdfast", Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func eventually(t *testing.T, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited 20 s in vain")
		}
	}
}

// A frame goes out as raw bytes with the token of the sidecar.
func TestPublish(t *testing.T) {
	s := newSidecar()
	_, address := s.start(t, "127.0.0.1:0")
	c := connect(t, address)
	data := []byte{0, 0xff, 1}
	if err := c.Publish(t.Context(), "up.live", data); err != nil {
		t.Fatal(err)
	}
	r := s.published[0]
	if r.PubsubName != "holdfast" || r.Topic != "up.live" || string(r.Data) != string(data) ||
		r.DataContentType != "application/octet-stream" || r.Metadata["rawPayload"] != "true" || s.tokens[0] != "secret" {
		t.Errorf("got %+v, token %q", r, s.tokens)
	}
	if state := c.State(); state.Connection != "ready" || state.LastPublished.IsZero() || state.LastError != "" {
		t.Errorf("got %+v", state)
	}
	if n := testutil.ToFloat64(c.metrics.good); n != 1 {
		t.Errorf("counted %v", n)
	}
}

// Without a sidecar New returns at once, publishing fails soon, and the state
// says why.
func TestPublishWithoutSidecar(t *testing.T) {
	c := connect(t, "127.0.0.1:1")
	start := time.Now()
	err := c.Publish(t.Context(), "up.live", nil)
	if err == nil || time.Since(start) > 5*time.Second {
		t.Errorf("got %v after %s", err, time.Since(start))
	}
	if s := c.State(); s.LastError == "" || s.Good() {
		t.Errorf("got %+v", s)
	}
	if n := testutil.ToFloat64(c.metrics.bad); n != 1 {
		t.Errorf("counted %v", n)
	}
}

// A sidecar that hangs costs no more than the deadline, and a caller that gives
// up earlier is no failure of the sidecar.
func TestPublishToAHangingSidecar(t *testing.T) {
	s := newSidecar()
	s.hang = true
	_, address := s.start(t, "127.0.0.1:0")
	c := connect(t, address)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := c.Publish(ctx, "up.live", nil); err == nil {
		t.Error("published")
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Publish(short, "up.live", nil); err == nil {
		t.Error("published")
	}
}

// The deadline follows the size: 10 s and what a slow link takes.
func TestDeadlineFollowsSize(t *testing.T) {
	for size, want := range map[int]time.Duration{0: 10 * time.Second, 8 << 10: 11 * time.Second, 512 << 10: 74 * time.Second} {
		if got := deadline(size); got != want {
			t.Errorf("%d bytes: got %s, want %s", size, got, want)
		}
	}
}

// subscribed collects what comes in until the test ends.
func subscribed(t *testing.T, c *Client, refuse error) (got func() []string) {
	t.Helper()
	var mu sync.Mutex
	var all []string
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- c.Subscribe(ctx, "down.pi", func(b []byte) error {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, string(b))
			return refuse
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return all
	}
}

// Receipts come in as bytes and are acknowledged, also those that make no sense.
func TestSubscribe(t *testing.T) {
	for _, refuse := range []error{nil, errors.New("no sense")} {
		s := newSidecar()
		_, address := s.start(t, "127.0.0.1:0")
		c := connect(t, address)
		got := subscribed(t, c, refuse)
		s.feed <- []byte("\xff1")
		s.feed <- []byte("2")
		eventually(t, func() bool { return len(got()) == 2 })
		eventually(t, func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.answered) == 2 && s.answered[1] == "32 SUCCESS"
		})
		if got()[0] != "\xff1" || !c.State().Good() {
			t.Errorf("got %q, %+v", got(), c.State())
		}
	}
}

// A subscription that breaks, is refused or loses its sidecar is opened again.
func TestSubscriptionIsOpenedAgain(t *testing.T) {
	s := newSidecar()
	stop, address := s.start(t, "127.0.0.1:0")
	c := connect(t, address)
	got := subscribed(t, c, nil)
	s.feed <- []byte("before")
	eventually(t, func() bool { return len(got()) == 1 })

	s.set(func() { s.fail = errors.New("no such component") })
	stop()
	eventually(t, func() bool { return !c.State().Subscribed })
	_, _ = s.start(t, address)
	eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.streams >= 2 })
	if state := c.State(); state.Subscribed || state.LastError == "" {
		t.Errorf("got %+v", state)
	}
	s.set(func() { s.fail = nil })
	s.feed <- []byte("after")
	eventually(t, func() bool { return len(got()) == 2 })
}

// Without any sidecar Subscribe goes on trying and returns when it is told to.
func TestSubscribeWithoutSidecar(t *testing.T) {
	c := connect(t, "127.0.0.1:1")
	subscribed(t, c, nil)
	eventually(t, func() bool { return c.State().LastError != "" })
}
