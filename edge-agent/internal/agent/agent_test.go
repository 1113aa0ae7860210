package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/config"
	"github.com/holdfast-edge/holdfast/edge-agent/internal/outbox"
	"github.com/holdfast-edge/holdfast/edge-agent/internal/status"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// settings are those of an agent with nothing behind it, on free ports.
func settings(t testing.TB) config.Config {
	t.Helper()
	return settingsIn(t, t.TempDir())
}

func settingsIn(t testing.TB, dir string) config.Config {
	t.Helper()
	c, _, err := config.Load("", []string{
		"EDGE_AGENT=pi-1", "EDGE_DATA=" + dir, "EDGE_INTAKE__MQTT__LISTEN=127.0.0.1:0", "EDGE_STATUS__LISTEN=127.0.0.1:0",
		"EDGE_UPLINK__DAPR_ADDRESS=127.0.0.1:1", "EDGE_OUTBOX__RESERVE_BYTES=0",
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

type running struct {
	*Agent
	t    testing.TB
	log  *logBuffer
	stop func()
}

// start runs an agent until stop or the end of the test.
func start(t testing.TB, c config.Config) *running {
	t.Helper()
	return startWith(t, Options{Config: c})
}

func startWith(t testing.TB, o Options) *running {
	t.Helper()
	log := &logBuffer{}
	o.Version, o.Logger = "test", slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	var once sync.Once
	r := &running{Agent: a, t: t, log: log, stop: func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("run: %v", err)
			}
		})
	}}
	t.Cleanup(r.stop)
	return r
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func eventually(t testing.TB, is func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited 15 s in vain")
		}
	}
}

// sensor connects a paho client to the agent's listener.
func (r *running) sensor() paho.Client {
	r.t.Helper()
	c := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + r.MQTTAddr().String()).SetClientID("sensor").SetAutoReconnect(false))
	if token := c.Connect(); !token.WaitTimeout(10*time.Second) || token.Error() != nil {
		r.t.Fatal("connect: ", token.Error())
	}
	r.t.Cleanup(func() { c.Disconnect(50) })
	return c
}

func (r *running) get(path string) (int, string) {
	r.t.Helper()
	resp, err := http.Get("http://" + r.StatusAddr().String() + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// stored reads every reading that the folder's epochs hold.
func stored(t testing.TB, c config.Config) (payloads []string) {
	t.Helper()
	o, err := outbox.Open(outbox.Options{Dir: c.Outbox.Dir, Agent: c.Agent, ReserveBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	for _, e := range o.Epochs() {
		for from := uint64(1); ; {
			recs, err := o.Read(t.Context(), e.Epoch, from, 1000, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if len(recs) == 0 {
				break
			}
			for _, rec := range recs {
				if rec.Reading != nil {
					payloads = append(payloads, string(rec.Reading.Payload))
				}
			}
			from = recs[len(recs)-1].Seq + 1
		}
	}
	return payloads
}

// With nothing behind it, no network, sidecar or cloud, the agent acknowledges,
// stores, and says that it is ready and what it waits for.
func TestAgentWorksWithNothingBehindIt(t *testing.T) {
	c := settings(t)
	r := start(t, c)
	sensor := r.sensor()
	for i := range 100 {
		if token := sensor.Publish("a/b", 1, false, fmt.Append(nil, i)); !token.WaitTimeout(10*time.Second) || token.Error() != nil {
			t.Fatal("no PUBACK: ", token.Error())
		}
	}
	if code, text := r.get("/readyz"); code != 200 || !strings.Contains(text, `"sidecar"`) || !strings.Contains(text, "not enrolled") {
		t.Errorf("readyz: got %d %s", code, text)
	}
	_, text := r.get("/v1/status")
	var report status.Report
	if err := json.Unmarshal([]byte(text), &report); err != nil || !report.Ready || report.Agent != "pi-1" || report.Epoch == "" {
		t.Errorf("status: got %s, %v", text, err)
	}
	_, metrics := r.get("/metrics")
	for _, want := range []string{`edge_intake_messages_total{qos="1",source="listener"} 100`, "edge_outbox_", "edge_uplink_", "edge_dapr_subscribed 0", "go_goroutines", "process_open_fds"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	r.stop()
	if got := stored(t, c); len(got) != 100 || got[99] != "99" {
		t.Errorf("got %d readings", len(got))
	}
	if log := r.log.String(); strings.Contains(log, "a/b") || strings.Contains(log, "PRIVATE") {
		t.Errorf("log holds what it must not:\n%s", log)
	}
}

// Told to stop in the middle of a flood, the agent has stored whatever it
// acknowledged, and ends within seconds.
func TestStopLosesNothingAcknowledged(t *testing.T) {
	c := settings(t)
	r := start(t, c)
	sensor := r.sensor()
	var mu sync.Mutex
	acked := map[string]bool{}
	go func() {
		for i := 0; sensor.IsConnected(); i++ {
			payload := fmt.Sprint(i)
			token := sensor.Publish("a", 1, false, payload)
			go func() {
				if token.Wait() && token.Error() == nil {
					mu.Lock()
					acked[payload] = true
					mu.Unlock()
				}
			}()
		}
	}()
	eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(acked) > 500 })
	begin := time.Now()
	r.stop()
	if took := time.Since(begin); took > 12*time.Second {
		t.Errorf("stopping took %s", took)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, payload := range stored(t, c) {
		delete(acked, payload)
	}
	if len(acked) > 0 {
		t.Errorf("%d acknowledged readings are not stored", len(acked))
	}
}

// A full outbox makes the agent not ready and ends sessions without a PUBACK.
func TestFullOutbox(t *testing.T) {
	c := settings(t)
	c.Outbox.MaxBytes = 16 << 20
	r := startWith(t, Options{Config: c, fullGrace: 100 * time.Millisecond})
	sensor := r.sensor()
	payload := make([]byte, 200<<10)
	full := false
	for i := range 200 {
		token := sensor.Publish("a", 1, false, append(payload, byte(i)))
		if !token.WaitTimeout(45*time.Second) || token.Error() != nil {
			full = true
			break
		}
	}
	if !full {
		t.Fatal("40 MB went into 16 MiB")
	}
	eventually(t, func() bool { return !sensor.IsConnected() })
	if code, text := r.get("/readyz"); code != 503 || !strings.Contains(text, "outbox.max_bytes") {
		t.Errorf("readyz: got %d %s", code, text)
	}
}

// What cannot be opened is an error that says what to do.
func TestNewSaysWhatToDo(t *testing.T) {
	f := func(c config.Config, want ...string) {
		t.Helper()
		a, err := New(Options{Config: c, Version: "test", Logger: slog.New(slog.DiscardHandler)})
		if err == nil {
			t.Fatal("no error, and now ", a.close())
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("got %q, want %q in it", err, w)
			}
		}
	}
	r := start(t, settings(t))
	c := settings(t)
	c.Outbox.Dir = r.config.Outbox.Dir
	f(c, "another edge-agent", "outbox.dir")
	c = settings(t)
	c.Intake.MQTT.Listen = r.MQTTAddr().String()
	f(c, "intake.mqtt.listen", "address already in use")
	c = settings(t)
	c.Status.Listen = r.StatusAddr().String()
	f(c, "status.listen", "address already in use")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c = settings(t)
	c.Data = filepath.Join(file, "data")
	f(c, "data folder", file)
	c = settings(t)
	c.Outbox.Dir = filepath.Join(file, "outbox")
	f(c, "outbox", file)
	c = settings(t)
	c.Uplink.DaprTokenFile = "/nowhere"
	f(c, "uplink.dapr_token_file")
	c = settings(t)
	if err := os.WriteFile(filepath.Join(c.Data, keyFile), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	f(c, keyFile, "new token")
}

// A failed New gives back what it had opened: the next one finds it free.
func TestFailedNewLeavesNothingOpen(t *testing.T) {
	c := settings(t)
	c.Status.Listen = "256.0.0.1:1"
	if _, err := New(Options{Config: c, Logger: slog.New(slog.DiscardHandler)}); err == nil {
		t.Fatal("no error")
	}
	c.Status.Listen = "127.0.0.1:0"
	start(t, c)
}

// Stages stop one after the other, errors are joined, and cancellation is none.
func TestStagesStopInOrder(t *testing.T) {
	var mu sync.Mutex
	var ended []string
	wait := func(name string, err error) part {
		return part{name, func(ctx context.Context) error {
			<-ctx.Done()
			time.Sleep(10 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			ended = append(ended, name)
			return err
		}}
	}
	fail := part{"fail", func(context.Context) error { return errors.New("broken") }}
	err := runStages(t.Context(), []part{wait("a", nil)}, []part{wait("b", context.Canceled), fail}, []part{wait("c", errors.New("late"))})
	if err == nil || err.Error() != "fail: broken\nc: late" {
		t.Errorf("got %v", err)
	}
	if strings.Join(ended, "") != "abc" {
		t.Errorf("ended in the order %v", ended)
	}
}

// The state of the outbox is what people need to act on.
func TestOutboxState(t *testing.T) {
	f := func(s outbox.Stats, full outbox.Policy, state, note string) {
		t.Helper()
		gotState, gotNote := outboxState(s, full)
		if gotState != state || !strings.Contains(gotNote, note) {
			t.Errorf("%+v: got %s %q", s, gotState, gotNote)
		}
	}
	f(outbox.Stats{}, outbox.Refuse, status.OK, "")
	f(outbox.Stats{FullSince: time.Now()}, outbox.Refuse, status.Failing, "nothing more")
	f(outbox.Stats{FullSince: time.Now()}, outbox.DropOldest, status.Degraded, "oldest")
	f(outbox.Stats{TimeToFull: time.Hour}, outbox.Refuse, status.Degraded, "within a day")
	f(outbox.Stats{TimeToFull: 48 * time.Hour}, outbox.Refuse, status.OK, "")
	f(outbox.Stats{Foreign: 1}, outbox.Refuse, status.Degraded, "card copied")
	f(outbox.Stats{Quarantined: 1}, outbox.Refuse, status.Degraded, "replace")
	if got := lost(outbox.Stats{Lost: map[telemetry.Reason]uint64{telemetry.ReasonDropped: 5, telemetry.ReasonExpired: 0}}); got != "5 dropped" {
		t.Errorf("got %q", got)
	}
}
