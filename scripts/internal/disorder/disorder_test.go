package disorder_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/disorder"
)

// app counts what is delivered to it, by body.
type app struct {
	mu   sync.Mutex
	seen map[string]int
	list []string
}

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen[string(body)]++
	a.list = append(a.list, string(body))
	w.Header().Set("X-Token", r.Header.Get("X-Token"))
	_, _ = io.WriteString(w, "took "+string(body))
}

func (a *app) count(body string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen[body]
}

// An orderly proxy is not there: method, path, header, body and answer pass as they are.
func TestOrderlyProxyChangesNothing(t *testing.T) {
	a, p := open(t)
	resp, text := post(t, p, "/ingest/live", "frame")
	if resp.StatusCode != http.StatusOK || text != "took frame" || resp.Header.Get("X-Token") != "secret" {
		t.Fatalf("answer %s %q %v", resp.Status, text, resp.Header)
	}
	if a.count("frame") != 1 || p.Stats() != (disorder.Stats{Delivered: 1}) {
		t.Fatalf("delivered %d times, %+v", a.count("frame"), p.Stats())
	}
}

// A repeated delivery reaches the app twice and is answered once.
func TestRepeatedDeliveryComesTwice(t *testing.T) {
	a, p := open(t)
	p.Set(disorder.Habits{Repeat: 1, Hold: time.Millisecond})
	if _, text := post(t, p, "/ingest/live", "frame"); text != "took frame" {
		t.Fatalf("answer %q", text)
	}
	for deadline := time.Now().Add(10 * time.Second); a.count("frame") < 2; {
		if time.Now().After(deadline) {
			t.Fatal("it was not repeated")
		}
		time.Sleep(time.Millisecond)
	}
	if s := p.Stats(); s.Repeated != 1 || s.Delivered != 1 {
		t.Fatalf("%+v", s)
	}
}

// The caller of a delivery without an answer is told to try again although the app took it; a refused one the app
// never sees; and neither happens to anything but deliveries.
func TestUnansweredAndRefused(t *testing.T) {
	a, p := open(t)
	p.Set(disorder.Habits{Unanswer: 1})
	if resp, _ := post(t, p, "/ingest/backlog", "taken"); resp.StatusCode != http.StatusInternalServerError || a.count("taken") != 1 {
		t.Fatalf("%s, delivered %d times", resp.Status, a.count("taken"))
	}
	p.Set(disorder.Habits{Refuse: 1})
	if resp, _ := post(t, p, "/ingest/backlog", "refused"); resp.StatusCode != http.StatusInternalServerError || a.count("refused") != 0 {
		t.Fatalf("%s, delivered %d times", resp.Status, a.count("refused"))
	}
	if resp, _ := post(t, p, "/other", "other"); resp.StatusCode != http.StatusOK {
		t.Fatalf("no delivery: %s", resp.Status)
	}
}

// Delayed deliveries are overtaken by later ones.
func TestDelayedDeliveriesAreOvertaken(t *testing.T) {
	a, p := open(t)
	p.Set(disorder.Habits{Delay: 0.5, Hold: 200 * time.Millisecond})
	var all sync.WaitGroup
	var want []string
	for i := range 20 {
		body := strings.Repeat("x", i+1)
		want = append(want, body)
		all.Go(func() { post(t, p, "/ingest/live", body) })
		time.Sleep(5 * time.Millisecond)
	}
	all.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.list) != 20 || strings.Join(a.list, " ") == strings.Join(want, " ") {
		t.Fatalf("%d deliveries came, in the order in which they were sent", len(a.list))
	}
}

// A proxy whose app is away says so to the caller, and its own end ends what it still holds back.
func TestAppAwayAndClose(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	addr := server.Listener.Addr().String()
	server.Close()
	p, err := disorder.Listen("127.0.0.1:0", addr)
	if err != nil {
		t.Fatal(err)
	}
	p.Set(disorder.Habits{Repeat: 1, Hold: time.Hour})
	if resp, _ := post(t, p, "/ingest/live", "frame"); resp.StatusCode != http.StatusBadGateway {
		t.Fatalf("%s", resp.Status)
	}
	if err := p.Close(); err != nil { // it would wait an hour
		t.Fatal(err)
	}
}

func open(t *testing.T) (*app, *disorder.Proxy) {
	t.Helper()
	a := &app{seen: map[string]int{}}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	p, err := disorder.Listen("127.0.0.1:0", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return a, p
}

func post(t *testing.T, p *disorder.Proxy, path, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+p.Addr()+path, strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return &http.Response{}, ""
	}
	req.Header.Set("X-Token", "secret")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Error(err)
		return &http.Response{}, ""
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp, string(text)
}
