package testbed

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// App is an HTTP app behind a sidecar that keeps what it is given, as the cloud does.
type App struct {
	Port int

	mu     sync.Mutex
	got    map[string][][]byte // by route
	refuse bool
	forget bool
	calls  int
}

// NewApp starts the app.
func NewApp(t testing.TB) *App {
	a := &App{got: map[string][][]byte{}}
	s := httptest.NewServer(a)
	t.Cleanup(s.Close)
	a.Port = s.Listener.Addr().(*net.TCPAddr).Port
	return a
}

// ServeHTTP takes a CloudEvent whose data is the raw payload in base64.
func (a *App) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.NotFound(w, r)
		return
	}
	var event struct {
		Data []byte `json:"data_base64"`
	}
	err := json.NewDecoder(r.Body).Decode(&event)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls++
	if err != nil || a.refuse {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	if !a.forget {
		a.got[r.URL.Path] = append(a.got[r.URL.Path], event.Data)
	}
	_, _ = w.Write([]byte(`{"status":"SUCCESS"}`))
}

// Refuse makes the app answer 500 to everything, or not.
func (a *App) Refuse(on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refuse = on
}

// Discard makes the app keep nothing from now on, only count.
func (a *App) Discard() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.forget = true
}

// Calls counts the deliveries, taken or not.
func (a *App) Calls() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.calls
}

// Has reports whether the payload has come on the route.
func (a *App) Has(route string, payload []byte) bool { return a.Count(route, payload) > 0 }

// Count says how often the payload has come on the route.
func (a *App) Count(route string, payload []byte) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.got[route] {
		if bytes.Equal(p, payload) {
			n++
		}
	}
	return n
}

func kilobytes(status []byte, name string) int64 {
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n << 10
		}
	}
	return 0
}
