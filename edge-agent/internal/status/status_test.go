package status_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/status"
)

func options(states ...string) status.Options {
	r := status.Report{Agent: "pi-1", Version: "1", Epoch: "1-0000000000000000"}
	for i, state := range states {
		r.Parts = append(r.Parts, status.Part{
			Name: string(rune('a' + i)), State: state, Note: "why",
			Facts: []status.Fact{{Key: "n", Label: "Number", Value: 5, Unit: status.Count}},
		})
	}
	r.Settle()
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "edge_test_total", Help: "A test."}))
	return status.Options{
		Address: "127.0.0.1:0", Report: func() status.Report { return r }, Gatherer: reg, Logger: slog.New(slog.DiscardHandler),
	}
}

func get(t *testing.T, o status.Options, method, path string) *http.Response {
	t.Helper()
	w := httptest.NewRecorder()
	status.Handler(o).ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Only a part that fails makes the agent not ready; a cloud that is away does not.
func TestReadiness(t *testing.T) {
	f := func(code int, states ...string) {
		t.Helper()
		r := get(t, options(states...), "GET", "/readyz")
		text := body(t, r)
		if r.StatusCode != code {
			t.Errorf("%v: got %d, want %d", states, r.StatusCode, code)
		}
		var got struct {
			Ready bool
			Parts map[string]struct{ State, Note string }
		}
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatal(err)
		}
		if got.Ready != (code == 200) || len(got.Parts) != len(states) || got.Parts["a"].State != states[0] || got.Parts["a"].Note != "why" {
			t.Errorf("got %s", text)
		}
	}
	f(200, status.OK)
	f(200, status.OK, status.Degraded)
	f(503, status.Failing)
	f(503, status.Degraded, status.Failing, status.OK)
}

// Health says only that the process answers.
func TestHealth(t *testing.T) {
	if r := get(t, options(status.Failing), "GET", "/healthz"); r.StatusCode != 200 {
		t.Errorf("got %d", r.StatusCode)
	}
}

// The page and what it loads are there, and nothing else is.
func TestRoutes(t *testing.T) {
	f := func(path string, code int, kind, want string) {
		t.Helper()
		r := get(t, options(status.OK), "GET", path)
		text := body(t, r)
		if r.StatusCode != code || !strings.HasPrefix(r.Header.Get("Content-Type"), kind) || !strings.Contains(text, want) {
			t.Errorf("%s: got %d %s %.80q", path, r.StatusCode, r.Header.Get("Content-Type"), text)
		}
	}
	f("/", 200, "text/html", "page.js")
	f("/page.js", 200, "text/javascript", "v1/status")
	f("/page.css", 200, "text/css", "section")
	f("/v1/status", 200, "application/json", `"agent": "pi-1"`)
	f("/metrics", 200, "text/plain", "edge_test_total 0")
	f("/index.html", 404, "", "")
	f("/assets/", 404, "", "")
	f("/status.go", 404, "", "")
	if r := get(t, options(status.OK), "POST", "/v1/status"); r.StatusCode != 405 {
		t.Errorf("POST: got %d", r.StatusCode)
	}
}

// Every answer forbids what the page does not need; the page needs nothing that
// is forbidden.
func TestSecurityHeaders(t *testing.T) {
	for _, path := range []string{"/", "/v1/status", "/metrics", "/nowhere"} {
		h := get(t, options(status.OK), "GET", path).Header
		if !strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") || h.Get("X-Content-Type-Options") != "nosniff" ||
			h.Get("X-Frame-Options") != "DENY" || h.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: got %v", path, h)
		}
	}
	page := body(t, get(t, options(status.OK), "GET", "/"))
	for _, inline := range []string{"style=", "onclick", "<style", "<script>", "http:", "https:"} {
		if strings.Contains(page, inline) {
			t.Errorf("the page holds %s", inline)
		}
	}
}

// The server listens before it runs, answers, and stops when it is told to.
func TestServer(t *testing.T) {
	s, err := status.Listen(options(status.OK))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	resp, err := http.Get("http://" + s.Addr().String() + "/healthz")
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("got %v, %v", resp, err)
	}
	resp.Body.Close()
	o := options(status.OK)
	o.Address = s.Addr().String()
	if _, err := status.Listen(o); err == nil || !strings.Contains(err.Error(), "status.listen") {
		t.Errorf("port in use: got %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}
