package server_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/config"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/enrol"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/format"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/server"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// cloud is a whole server on free ports, without a sidecar.
type cloud struct {
	t           *testing.T
	cfg         config.Config
	public, app string
	stop        func() error
}

func start(t *testing.T, cfg config.Config) *cloud {
	t.Helper()
	s, err := server.Open(t.Context(), cfg, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	c := &cloud{t: t, cfg: cfg, public: "http://" + s.PublicAddr(), app: "http://" + s.AppAddr()}
	stopped := false
	c.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-ended
	}
	t.Cleanup(func() {
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func settings(t *testing.T) config.Config {
	c := config.Default()
	dir := t.TempDir()
	c.Public.Listen, c.App.Listen = "127.0.0.1:0", "127.0.0.1:0"
	c.Dapr.Address = "127.0.0.1:1" // nobody listens there
	c.Store.SQLite.Path, c.Keys.Dir = filepath.Join(dir, "cloud.db"), filepath.Join(dir, "keys")
	return c
}

func (c *cloud) do(method, url string, body []byte, header ...string) (int, []byte) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, b
}

func (c *cloud) get(path string, into any) {
	c.t.Helper()
	status, b := c.do(http.MethodGet, c.public+path, nil)
	if status != http.StatusOK {
		c.t.Fatalf("GET %s: %d %s", path, status, b)
	}
	if err := json.Unmarshal(b, into); err != nil {
		c.t.Fatalf("GET %s: %v", path, err)
	}
}

// device enrols a new agent over HTTP and returns its key.
func (c *cloud) device(agent string) ed25519.PrivateKey {
	c.t.Helper()
	text, err := server.CreateToken(c.t.Context(), c.cfg, enrol.Grant{Agent: agent, Uses: 1, TTL: time.Hour}, slog.New(slog.DiscardHandler))
	if err != nil {
		c.t.Fatal(err)
	}
	tok, err := telemetry.ParseToken(text)
	if err != nil {
		c.t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		c.t.Fatal(err)
	}
	req, err := telemetry.NewEnrolRequest(tok, agent, key)
	if err != nil {
		c.t.Fatal(err)
	}
	b, err := json.Marshal(req)
	if err != nil {
		c.t.Fatal(err)
	}
	status, b := c.do(http.MethodPost, c.public+"/v1/enrol", b)
	if status != http.StatusOK {
		c.t.Fatalf("enrol: %d %s", status, b)
	}
	resp, err := telemetry.ParseEnrolResponse(b)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := resp.Verify(tok, req); err != nil {
		c.t.Fatal(err)
	}
	return key
}

// deliver posts a frame as the sidecar does and returns the status.
func (c *cloud) deliver(frame []byte) int {
	c.t.Helper()
	event, err := json.Marshal(map[string]string{
		"id": "1", "specversion": "1.0", "type": "com.dapr.event.sent", "datacontenttype": "application/octet-stream",
		"data_base64": base64.StdEncoding.EncodeToString(frame),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	status, _ := c.do(http.MethodPost, c.app+"/ingest/live", event, "Content-Type", "application/cloudevents+json")
	return status
}

func readings(first uint64, payloads ...[]byte) []telemetry.Record {
	var recs []telemetry.Record
	for i, p := range payloads {
		recs = append(recs, telemetry.Record{
			Seq: first + uint64(i), Kind: telemetry.KindReading, At: telemetry.Instant{Boot: time.Duration(i), Wall: time.Now().UnixNano()},
			Reading: &telemetry.Reading{Topic: "plant/1/temperature", QoS: 1, Payload: p},
		})
	}
	return recs
}

func frame(t *testing.T, agent string, e telemetry.Epoch, recs []telemetry.Record, key ed25519.PrivateKey) []byte {
	t.Helper()
	last := recs[len(recs)-1].Seq
	b, err := telemetry.EncodeFrame(telemetry.Header{
		Agent: agent, Epoch: e, First: recs[0].Seq, Last: last, OpenTotal: 1,
		Open: []telemetry.OpenEpoch{{Epoch: e, Lowest: 1, Durable: last}},
	}, recs, key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A frame delivered by the sidecar is answered after its commit, is stored once
// however often it comes, and its payloads come out bit for bit.
func TestFrameIsStoredOnceBitForBit(t *testing.T) {
	c := start(t, settings(t))
	key := c.device("greenhouse-1")
	e := telemetry.Epoch{Ordinal: 1, ID: [8]byte{1}}
	payloads := [][]byte{[]byte("21.5"), {}, {0xff, 0x00, 0xfe}, bytes.Repeat([]byte("x"), 256<<10), []byte("<script>alert(1)</script>")}
	f := frame(t, "greenhouse-1", e, readings(1, payloads...), key)
	for range 3 {
		if status := c.deliver(f); status != http.StatusOK {
			t.Fatalf("delivery: %d", status)
		}
	}
	var page struct {
		Readings []struct {
			Seq      uint64
			Payload  string
			Encoding string `json:"payload_encoding"`
		}
	}
	c.get("/v1/readings?agent=greenhouse-1", &page)
	if len(page.Readings) != len(payloads) {
		t.Fatalf("%d readings, want %d", len(page.Readings), len(payloads))
	}
	for i, r := range page.Readings {
		got := []byte(r.Payload)
		if r.Encoding == "base64" {
			var err error
			if got, err = base64.StdEncoding.DecodeString(r.Payload); err != nil {
				t.Fatal(err)
			}
		}
		if r.Seq != uint64(i+1) || !bytes.Equal(got, payloads[i]) {
			t.Errorf("seq %d: payload differs", r.Seq)
		}
	}
	var list struct {
		Agents []struct {
			ID        string
			Watermark uint64
			Held      uint64
		}
	}
	c.get("/v1/agents", &list)
	if len(list.Agents) != 1 || list.Agents[0].Watermark != 5 || list.Agents[0].Held != 5 {
		t.Errorf("agents: %+v", list)
	}
}

// An export has every reading once, whatever the size of a page.
func TestExportIsComplete(t *testing.T) {
	cfg := settings(t)
	c := start(t, cfg)
	key := c.device("a")
	const frames, size = 12, 1000
	for n := range uint64(frames) {
		payloads := make([][]byte, size)
		for i := range payloads {
			payloads[i] = fmt.Append(nil, n, i)
		}
		if status := c.deliver(frame(t, "a", telemetry.Epoch{Ordinal: 1}, readings(n*size+1, payloads...), key)); status != 200 {
			t.Fatal(status)
		}
	}
	var b bytes.Buffer
	n, err := server.Export(t.Context(), cfg, store.Query{Agent: "a"}, format.NDJSON, &b, slog.New(slog.DiscardHandler))
	if err != nil || n != frames*size || bytes.Count(b.Bytes(), []byte("\n")) != n {
		t.Errorf("%d readings, %v", n, err)
	}
	if got := bytes.Count(b.Bytes(), []byte(`"seq":`)); got != frames*size {
		t.Errorf("%d lines", got)
	}
}

// What stands in the database is in the metrics too: where the records of all
// agents are, and the alarms, a hole among them, which no frame raises.
func TestMetricsShowTheFleet(t *testing.T) {
	c := start(t, settings(t))
	key := c.device("a")
	e := telemetry.Epoch{Ordinal: 1}
	for _, lowest := range []uint64{1, 6} {
		b, err := telemetry.EncodeFrame(telemetry.Header{
			Agent: "a", Epoch: e, First: lowest, Last: lowest, OpenTotal: 1, Open: []telemetry.OpenEpoch{{Epoch: e, Lowest: lowest, Durable: lowest + 2}},
		}, readings(lowest, []byte("x")), key)
		if err != nil {
			t.Fatal(err)
		}
		if status := c.deliver(b); status != http.StatusOK {
			t.Fatal(status)
		}
	}
	if status := c.deliver(frame(t, "a", e, readings(7, []byte("x"), []byte("x")), key)); status != http.StatusOK {
		t.Fatal(status)
	}
	var text string
	await(t, "a look at the fleet", func() bool {
		_, b := c.do(http.MethodGet, c.public+"/metrics", nil)
		text = string(b)
		return strings.Contains(text, `cloud_fleet_records{place="held"} 4`)
	})
	for _, want := range []string{
		`cloud_fleet_agents{state="allowed"} 1`, `cloud_fleet_records{place="missing"} 4`, "cloud_fleet_unexplained_records 4", `cloud_fleet_alarms{kind="hole"} 1`,
		`cloud_fleet_alarms{kind="clone"} 0`, `cloud_ingest_commit_seconds_count 3`, `cloud_api_requests_total{route="/v1/enrol",status="2xx"} 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
}

// While the server stops, an event that comes is not taken and not lost: the
// sidecar is told to deliver it again.
func TestStopRefusesNewEvents(t *testing.T) {
	cfg := settings(t)
	c := start(t, cfg)
	key := c.device("a")
	var delivered atomic.Uint64
	var sender sync.WaitGroup
	sender.Go(func() {
		for seq := uint64(1); ; seq++ {
			f := frame(t, "a", telemetry.Epoch{Ordinal: 1}, readings(seq, []byte("x")), key)
			event := []byte(`{"data_base64":"` + base64.StdEncoding.EncodeToString(f) + `"}`)
			resp, err := http.Post(c.app+"/ingest/live", "application/json", bytes.NewReader(event))
			if err != nil {
				return // it does not listen any more
			}
			resp.Body.Close()
			if resp.StatusCode != 200 {
				return
			}
			delivered.Store(seq)
		}
	})
	for delivered.Load() < 20 {
		time.Sleep(time.Millisecond)
	}
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	sender.Wait()
	again := start(t, cfg)
	var a struct{ Watermark uint64 }
	again.get("/v1/agents/a", &a)
	if a.Watermark < delivered.Load() {
		t.Errorf("%d were answered, %d are stored", delivered.Load(), a.Watermark)
	}
}
