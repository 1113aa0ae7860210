package uplink

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	pb "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/freeport"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// site is a real cloud-api with its database, and in the place of its sidecar and
// the broker a queue in memory: frames are delivered to it by a few workers, as a
// sidecar does, and receipts come back to the uplinks at once.
type site struct {
	t        testing.TB
	public   string // URL
	app      string // URL
	config   string // file
	program  string
	process  *exec.Cmd
	agents   map[string]*Uplink // by topic
	client   http.Client
	mu       sync.Mutex
	away     bool
	queue    []queued
	arrived  *sync.Cond
	frames   int // published
	repeated int // delivered once more, since the cloud refused
	most     int // waiting at a time
	closed   bool

	pb.UnimplementedDaprServer
}

// queued is a frame on its way to the cloud.
type queued struct {
	lane string
	data []byte
}

// deliveries is how many frames a sidecar hands to its app at a time.
const deliveries = 8

// startSite runs the program that HOLDFAST_CLOUD_API names.
func startSite(t testing.TB) *site {
	program := os.Getenv("HOLDFAST_CLOUD_API")
	if program == "" {
		if slices.Contains(strings.Split(os.Getenv("HOLDFAST_TEST_REQUIRE"), ","), "HOLDFAST_CLOUD_API") {
			t.Fatal("HOLDFAST_CLOUD_API is required and names no program")
		}
		t.Skip("HOLDFAST_CLOUD_API is not set: ./scripts/test sets it")
	}
	s := &site{t: t, program: program, agents: map[string]*Uplink{}}
	s.arrived = sync.NewCond(&s.mu)
	s.client = http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: deliveries}}
	sidecar, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterDaprServer(server, s)
	go func() { _ = server.Serve(sidecar) }() // until Stop
	t.Cleanup(server.Stop)
	dir := t.TempDir()
	public, app := freeAddress(t), freeAddress(t)
	s.public, s.app = "http://"+public, "http://"+app
	s.config = filepath.Join(dir, "cloud-api.yaml")
	text := fmt.Sprintf("name: herd\npublic: {listen: %q}\napp: {listen: %q}\ndapr: {address: %q}\nstore: {sqlite: {path: %q}}\nkeys: {dir: %q}\n",
		public, app, sidecar.Addr(), filepath.Join(dir, "readings.db"), filepath.Join(dir, "keys"))
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	var workers sync.WaitGroup
	for range deliveries {
		workers.Go(s.deliver)
	}
	t.Cleanup(func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		s.arrived.Broadcast()
		workers.Wait()
	})
	return s
}

func freeAddress(t testing.TB) string {
	t.Helper()
	addr, err := freeport.Address()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// start runs the cloud and waits until it is ready.
func (s *site) start() {
	var out bytes.Buffer
	s.process = exec.Command(s.program, "run", "--config", s.config)
	s.process.Stdout, s.process.Stderr = &out, &out
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = s.process.Process.Kill() // it may have ended
		_ = s.process.Wait()
		if s.t.Failed() {
			s.t.Log(out.String())
		}
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		resp, err := s.client.Get(s.public + "/readyz")
		if err == nil {
			_ = resp.Body.Close() // nothing of it is used
			if resp.StatusCode == http.StatusOK {
				return
			}
			err = errors.New(resp.Status)
		}
		if time.Now().After(end) {
			s.t.Fatalf("cloud-api is not ready: %v", err)
		}
	}
}

// enrol makes n agents known to the cloud, with a token for all of them, and
// returns their keys and the cloud's.
func (s *site) enrol(n int) (names []string, keys []ed25519.PrivateKey, root ed25519.PublicKey) {
	text, err := exec.Command(s.program, "token", "create", "--config", s.config, "--uses", strconv.Itoa(n), "--prefix", "herd-").Output()
	if err != nil {
		s.t.Fatal(err)
	}
	token, err := telemetry.ParseToken(strings.TrimSpace(string(text)))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range n {
		_, key, _ := ed25519.GenerateKey(nil)
		name := fmt.Sprintf("herd-%04d", i)
		req, err := telemetry.NewEnrolRequest(token, name, key)
		if err != nil {
			s.t.Fatal(err)
		}
		body, err := json.Marshal(req)
		if err != nil {
			s.t.Fatal(err)
		}
		answer := s.redeem(body)
		resp, err := telemetry.ParseEnrolResponse(answer)
		if err != nil {
			s.t.Fatalf("enrol %s: %v: %s", name, err, answer)
		}
		if root, err = resp.Verify(token, req); err != nil {
			s.t.Fatal(err)
		}
		names, keys = append(names, name), append(keys, key)
	}
	return names, keys, root
}

// redeem asks until the cloud does not tell it to wait.
func (s *site) redeem(body []byte) []byte {
	for {
		resp, err := s.client.Post(s.public+"/v1/enrol", "application/json", bytes.NewReader(body))
		if err != nil {
			s.t.Fatal(err)
		}
		answer, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			s.t.Fatal(err)
		}
		if resp.StatusCode != http.StatusTooManyRequests {
			return answer
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Publish is the uplinks' way to the broker.
func (s *site) Publish(_ context.Context, topic string, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return errCut
	}
	s.frames++
	s.push(queued{strings.TrimPrefix(topic, "up."), bytes.Clone(data)})
	return nil
}

func (s *site) push(q queued) {
	s.queue = append(s.queue, q)
	s.most = max(s.most, len(s.queue))
	s.arrived.Signal()
}

// deliver hands one frame after the other to the cloud; what it refuses comes
// again later.
func (s *site) deliver() {
	for {
		s.mu.Lock()
		for len(s.queue) == 0 && !s.closed {
			s.arrived.Wait()
		}
		if s.closed {
			s.mu.Unlock()
			return
		}
		q := s.queue[0]
		s.queue = s.queue[1:]
		s.mu.Unlock()
		resp, err := s.client.Post(s.app+"/ingest/"+q.lane, "application/octet-stream", bytes.NewReader(q.data))
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body) // only the status counts
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				continue
			}
		}
		time.AfterFunc(time.Second, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.repeated++
			s.push(q)
		})
	}
}

// PublishEvent is the cloud's way to the agents.
func (s *site) PublishEvent(_ context.Context, r *pb.PublishEventRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	up, away := s.agents[r.GetTopic()], s.away
	s.mu.Unlock()
	if up == nil || away {
		return &emptypb.Empty{}, nil // as a broker would: nobody is there
	}
	if err := up.HandleReceipt(r.GetData()); err != nil {
		s.t.Errorf("receipt on %s: %v", r.GetTopic(), err)
	}
	return &emptypb.Empty{}, nil
}

// slowest asks the cloud's API once a tenth of a second until ctx ends and
// returns the longest time that it took, and how often it failed.
func (s *site) slowest(ctx context.Context, agent string) (longest time.Duration, failed int) {
	for ctx.Err() == nil {
		began := time.Now()
		resp, err := s.client.Get(s.public + "/v1/agents/" + agent)
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body) // only the time and the status count
			_ = resp.Body.Close()
		}
		if err != nil || resp.StatusCode != http.StatusOK {
			failed++
		}
		longest = max(longest, time.Since(began))
		time.Sleep(100 * time.Millisecond)
	}
	return longest, failed
}

// resident is what the cloud keeps in memory, in bytes.
func (s *site) resident() (n int64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.process.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, _ = strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		}
	}
	return n << 10
}

// Agents that come back together after an outage are all caught up by one real
// cloud, which stays up and answers everybody else meanwhile, and works at little
// that it has already.
func TestAHerdComesBackToARealCloud(t *testing.T) {
	const records = 500
	n := *herdSize
	s := startSite(t)
	names, keys, root := s.enrol(n)
	s.away = true
	boxes := make([]*memory, n)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for i := range n {
		box := newMemory()
		box.begin()
		recs := make([]telemetry.Record, records)
		for j := range recs {
			recs[j] = telemetry.Record{Kind: telemetry.KindReading, Reading: sample(j)}
		}
		box.append(recs...)
		up, err := New(Options{
			Agent: names[i], Key: keys[i], Root: func() ed25519.PublicKey { return root }, Outbox: box, Publisher: s, Now: box.now,
		})
		if err != nil {
			t.Fatal(err)
		}
		boxes[i] = box
		s.agents[DownTopic(names[i])] = up
		running.Go(func() { _ = up.Run(ctx) })
	}
	time.Sleep(3 * time.Second) // long enough for every one of them to have failed
	s.mu.Lock()
	s.away = false
	s.mu.Unlock()
	began := time.Now()
	asking, stop := context.WithCancel(ctx)
	var longest time.Duration
	var failed int
	var asker sync.WaitGroup
	asker.Go(func() { longest, failed = s.slowest(asking, names[0]) })
	for _, box := range boxes {
		for end := began.Add(5 * time.Minute); box.unreceipted() > 0; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("not caught up after %v", time.Since(began))
			}
		}
	}
	took := time.Since(began)
	stop()
	asker.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	t.Logf("%d agents with %d readings each: caught up in %.1f s, %.0f readings/s; %d frames, at most %d queued, %d delivered again; "+
		"the API took at most %v and failed %d times; the cloud kept at most %d MB resident",
		n, records, took.Seconds(), float64(n*records)/took.Seconds(), s.frames, s.most, s.repeated, longest, failed, s.resident()/1e6)
	if failed > 0 {
		t.Errorf("the API failed %d times", failed)
	}
	if least := n * records * 14 / firstTarget; s.frames > 20*max(least, n) {
		t.Errorf("%d frames for %d agents: most of them for nothing", s.frames, n)
	}
}

// unreceipted is how many records of the epoch have no receipt.
func (m *memory) unreceipted() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.epochs[m.own()]
	return l.durable - l.trimmed
}
