package dashboard_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/api"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/dashboard"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/feed"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store/sqlite"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// need returns a program, or skips the test where it is not installed and
// HOLDFAST_TEST_REQUIRE does not name it.
func need(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if slices.Contains(strings.Split(os.Getenv("HOLDFAST_TEST_REQUIRE"), ","), name) {
			t.Fatalf("%v, but HOLDFAST_TEST_REQUIRE names it", err)
		}
		t.Skip(err)
	}
	return path
}

// site serves a store with the dashboard on a free port and returns its address.
func site(t *testing.T, access *api.Access) (*sqlite.Store, string) {
	t.Helper()
	st, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(t.TempDir(), "cloud.db")})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	s, err := api.New(api.Options{
		Store: st, Feed: feed.New(feed.Options{Store: st, Logger: log}), Access: access, Dashboard: dashboard.Routes, Logger: log, Gatherer: prometheus.NewRegistry(),
		Ready: func(context.Context) ([]string, error) { return nil, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := errors.Join(s.Shutdown(ctx), <-ended, st.Close()); err != nil {
			t.Error(err)
		}
	})
	return st, "http://" + ln.Addr().String()
}

// scene fills a store with what a person would look at.
type scene struct {
	t   *testing.T
	st  *sqlite.Store
	now time.Time
}

func (s scene) agent(name string) {
	s.t.Helper()
	tok := store.Token{ID: name, Agent: name, Uses: 1, Expires: s.now.Add(time.Hour)}
	if err := errors.Join(s.st.CreateToken(s.t.Context(), tok), s.st.Enrol(s.t.Context(), name, name, make(ed25519.PublicKey, 32), s.now)); err != nil {
		s.t.Fatal(err)
	}
}

func (s scene) commit(f store.Frame) {
	s.t.Helper()
	if f.Received.IsZero() {
		f.Received = s.now
	}
	if len(f.Records) > 0 {
		f.First, f.Last = f.Records[0].Seq, f.Records[len(f.Records)-1].Seq
	}
	if _, err := s.st.Commit(s.t.Context(), f); err != nil {
		s.t.Fatal(err)
	}
}

func (s scene) reading(seq uint64, ago time.Duration, topic, payload string) telemetry.Record {
	return telemetry.Record{
		Seq: seq, Kind: telemetry.KindReading, At: telemetry.Instant{Boot: time.Duration(seq) * time.Second, Wall: s.now.Add(-ago).UnixNano()},
		Reading: &telemetry.Reading{Topic: topic, QoS: 1, Payload: []byte(payload)},
	}
}

func epoch(n uint64) telemetry.Epoch { return telemetry.Epoch{Ordinal: n, ID: [8]byte{byte(n), 0xab}} }

func open(e telemetry.Epoch, lowest, durable uint64) []telemetry.OpenEpoch {
	return []telemetry.OpenEpoch{{Epoch: e, Lowest: lowest, Durable: durable}}
}

func (s scene) fill() {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	s.greenhouse(string(every))
	s.workshop()
	s.agent("hostile")
	s.commit(store.Frame{Agent: "hostile", Epoch: epoch(1), Records: []telemetry.Record{
		s.reading(1, time.Minute, "<img src=x onerror=window.hacked=1>", "</script><script>window.hacked=1</script>"),
		s.reading(2, time.Minute, "'; DROP TABLE readings; --", "x"),
	}, Open: open(epoch(1), 1, 2)})
	s.agent("new-one")
	s.agent("sleeper")
	s.commit(store.Frame{Agent: "sleeper", Epoch: epoch(1), Received: s.now.Add(-5 * time.Hour), Open: open(epoch(1), 1, 1), Records: []telemetry.Record{s.reading(1, 5*time.Hour, "t", "1")}})
	for i := range 12 {
		name := fmt.Sprintf("pi-%02d", i)
		s.agent(name)
		s.commit(store.Frame{Agent: name, Epoch: epoch(1), Open: open(epoch(1), 1, 2), Received: time.Now().Add(time.Hour), Records: []telemetry.Record{
			s.reading(1, time.Minute, "door/open", "true"), s.reading(2, time.Second, "door/open", "false"),
		}})
	}
	if err := s.st.Reject(s.t.Context(), store.Rejected{Agent: "pi-07", Why: "the signature is not by the agent's key", Raw: every, Received: s.now}); err != nil {
		s.t.Fatal(err)
	}
}

// greenhouse is an agent that comes back after an outage: two epochs, a loss,
// and a day of values.
func (s scene) greenhouse(binary string) {
	s.agent("greenhouse-1")
	old := store.Frame{Agent: "greenhouse-1", Epoch: epoch(1), Received: s.now.Add(-26 * time.Hour), Open: open(epoch(1), 1, 400)}
	for seq := uint64(1); seq <= 300; seq++ {
		old.Records = append(old.Records, s.reading(seq, 26*time.Hour, "house/door", "closed"))
	}
	s.commit(old)
	for i := range 30 { // its backlog over the last day
		f := store.Frame{Agent: "greenhouse-1", Epoch: epoch(1), Received: s.now.Add(time.Duration(i-31) * 40 * time.Minute), Open: open(epoch(1), 1, uint64(400+100*i))}
		s.commit(f)
	}
	now := store.Frame{Agent: "greenhouse-1", Epoch: epoch(2), Open: append(open(epoch(2), 1, 3000), telemetry.OpenEpoch{Epoch: epoch(1), Lowest: 701, Durable: 3300})}
	now.Records = []telemetry.Record{
		{Seq: 1, Kind: telemetry.KindStart, Start: &telemetry.Start{Previous: epoch(1), PreviousLast: 3300, Version: "1.0.0"}},
		{Seq: 2, Kind: telemetry.KindLoss, Loss: &telemetry.Loss{Epoch: epoch(1), Seqs: telemetry.Range{First: 401, Last: 700}, Reason: telemetry.ReasonDropped, Count: 300}},
	}
	for seq := uint64(3); seq <= 2000; seq++ {
		ago := time.Duration(2000-seq) * 2 * time.Second
		v := 20 + 3*math.Sin(float64(seq)/90)
		payload := fmt.Sprintf(`{"ts":%d,"temperature":%.2f,"humidity":%.1f,"ok":true,"nested":{"values":[%.3f,%.3f]}}`, seq, v, 50+v, v/2, v/3)
		topic := "house/climate"
		if seq%100 == 0 {
			topic, payload = "house/camera", binary
		}
		now.Records = append(now.Records, s.reading(seq, ago, topic, payload))
	}
	s.commit(now)
}

// workshop is an agent with a hole and a twin.
func (s scene) workshop() {
	s.agent("workshop-2")
	f := store.Frame{Agent: "workshop-2", Epoch: epoch(1), Open: open(epoch(1), 21, 30)}
	for seq := uint64(1); seq <= 30; seq++ {
		f.Records = append(f.Records, s.reading(seq, time.Hour, "saw/speed", fmt.Sprint(seq)))
	}
	whole := f.Records
	f.Records = whole[:10]
	s.commit(f)
	f.Records = whole[20:]
	s.commit(f)
	twin := telemetry.Epoch{Ordinal: 1, ID: [8]byte{0xee}}
	for n := uint64(1); n <= 2; n++ {
		s.commit(store.Frame{Agent: "workshop-2", Epoch: twin, Open: open(twin, 1, n)})
		s.commit(store.Frame{Agent: "workshop-2", Epoch: epoch(1), Open: open(epoch(1), 21, 30+n)})
	}
}

// install puts playwright-core, as the lock file pins it, into a folder that
// later runs find again.
func install(t *testing.T, npm string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "holdfast", "browser-1.65.1")
	files := []string{"package.json", "package-lock.json", "test.mjs"}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join("browser", f))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, f), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "playwright-core", "package.json")); err == nil {
		return dir
	}
	cmd := exec.CommandContext(t.Context(), npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	return dir
}

// The dashboard works in a real Chromium: browser/test.mjs says what that means.
// Screenshots are kept where HOLDFAST_SCREENSHOTS says.
func TestInChromium(t *testing.T) {
	chromium, node, npm := need(t, "chromium"), need(t, "node"), need(t, "npm")
	text, line, err := api.NewToken(api.Caller{Name: "reader", Role: api.Reader})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(file, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	access, err := api.OpenAccess(file, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	st, full := site(t, nil)
	scene{t, st, time.Now()}.fill()
	_, empty := site(t, nil)
	_, locked := site(t, access)
	shots := os.Getenv("HOLDFAST_SCREENSHOTS")
	if shots == "" {
		shots = t.TempDir()
	}
	dir := install(t, npm)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, "--test", "--test-reporter=spec", filepath.Join(dir, "test.mjs"))
	cmd.Env = append(os.Environ(), "FULL="+full, "EMPTY="+empty, "LOCKED="+locked, "TOKEN="+text, "SHOTS="+shots, "CHROMIUM="+chromium)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "figure:") {
			t.Log(strings.TrimSpace(line))
		}
	}
}
