package dapr

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

type taker func(raw []byte) error

func (f taker) Take(_ context.Context, raw []byte) error { return f(raw) }

// listen starts an App on a free port and returns its URL.
func listen(t *testing.T, o AppOptions) (*App, string) {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	if o.Ready == nil {
		o.Ready = func() bool { return true }
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := NewApp(o)
	ended := make(chan error, 1)
	go func() { ended <- a.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := a.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		_ = <-ended // Shutdown has told
	})
	return a, "http://" + ln.Addr().String()
}

func post(t *testing.T, url, kind string, body []byte, header ...string) (int, string) {
	t.Helper()
	status, answer, err := try(t, url, kind, body, header...)
	if err != nil {
		t.Fatal(err)
	}
	return status, answer
}

// try is post for a request whose connection may break.
func try(t *testing.T, url, kind string, body []byte, header ...string) (int, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", kind)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func cloudEvent(t testing.TB, payload []byte) []byte {
	t.Helper()
	b, err := json.Marshal(map[string]any{"id": "x", "source": "edge-agent", "specversion": "1.0", "topic": "up.live", "data_base64": payload})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// An event of any size up to the largest frame reaches the service byte for
// byte, in either form, on both routes, and success is said only after it.
func TestEventReachesTheService(t *testing.T) {
	var got []byte
	_, url := listen(t, AppOptions{Taker: taker(func(raw []byte) error { got = bytes.Clone(raw); return nil })})
	for _, size := range []int{0, 1, 2, 3, 1000, telemetry.MaxFrame} {
		payload := bytes.Repeat([]byte{0xfb, 0, 'x'}, size/3+1)[:size]
		for _, route := range []string{"/ingest/live", "/ingest/backlog"} {
			for kind, body := range map[string][]byte{
				"application/cloudevents+json; charset=utf-8": cloudEvent(t, payload),
				"application/octet-stream":                    payload,
			} {
				got = nil
				status, answer := post(t, url+route, kind, body)
				if status != 200 || answer != `{"status":"SUCCESS"}` || !bytes.Equal(got, payload) {
					t.Errorf("%d bytes as %s on %s: %d %s, %d bytes came", size, kind, route, status, answer, len(got))
				}
			}
		}
	}
}

// What the service did not store is delivered again: the answer is a 500.
func TestFailureMeansAgain(t *testing.T) {
	_, url := listen(t, AppOptions{Taker: taker(func([]byte) error { return errors.New("disk full at /secret/path") })})
	status, answer := post(t, url+"/ingest/live", "application/octet-stream", []byte("x"))
	if status != 500 || strings.Contains(answer, "secret") {
		t.Errorf("%d %s", status, answer)
	}
}

// No answer is a 404, which would make the sidecar drop the event, and none that
// does not store is a success.
func TestNothingIsDroppedByAnAnswer(t *testing.T) {
	ready := true
	_, url := listen(t, AppOptions{
		Taker: taker(func([]byte) error { panic("BUG: on purpose") }), Ready: func() bool { return ready },
	})
	for _, path := range []string{"/", "/ingest", "/ingest/live/", "/ingest/other", "/v1/agents", "/ingest/live"} {
		if status, answer := post(t, url+path, "application/octet-stream", []byte("x")); status < 500 {
			t.Errorf("%s: %d %s", path, status, answer)
		}
	}
	// The server hangs up on a body that is too large, so the client may see
	// a broken connection instead of the answer; the sidecar delivers again after either.
	status, _, err := try(t, url+"/ingest/live", "application/octet-stream", make([]byte, bodyLimit+1))
	if err == nil && (status == 404 || status < 400) {
		t.Errorf("too large: %d", status)
	}
	ready = false
	if status, _ := post(t, url+"/ingest/live", "application/octet-stream", []byte("x")); status != 503 {
		t.Errorf("not ready: %d", status)
	}
}

// Only the sidecar that knows the token is listened to.
func TestTokenIsAsked(t *testing.T) {
	taken := 0
	_, url := listen(t, AppOptions{Token: "secret", Taker: taker(func([]byte) error { taken++; return nil })})
	for _, header := range [][]string{nil, {"dapr-api-token", "wrong"}, {"dapr-api-token", ""}} {
		if status, _ := post(t, url+"/ingest/live", "application/octet-stream", []byte("x"), header...); status != 403 {
			t.Errorf("%v: %d", header, status)
		}
	}
	if status, _ := post(t, url+"/ingest/live", "application/octet-stream", []byte("x"), "dapr-api-token", "secret"); status != 200 || taken != 1 {
		t.Errorf("right token: %d, %d taken", status, taken)
	}
}

// A body that is compressed is not opened: it is no frame, whatever is in it.
func TestCompressedBodyIsNotOpened(t *testing.T) {
	var got []byte
	_, url := listen(t, AppOptions{Taker: taker(func(raw []byte) error { got = bytes.Clone(raw); return nil })})
	if status, _ := post(t, url+"/ingest/live", "application/octet-stream", []byte("not gzip"), "Content-Encoding", "gzip"); status != 200 || string(got) != "not gzip" {
		t.Errorf("%d, %q", status, got)
	}
}

// Shutdown waits for the event in hand and answers it.
func TestShutdownFinishesTheEventInHand(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	a, url := listen(t, AppOptions{Taker: taker(func([]byte) error { close(entered); <-leave; return nil })})
	answered := make(chan int)
	go func() {
		status, _ := post(t, url+"/ingest/live", "application/octet-stream", []byte("x"))
		answered <- status
	}()
	<-entered
	stopped := make(chan error)
	go func() { stopped <- a.Shutdown(t.Context()) }()
	select {
	case err := <-stopped:
		t.Fatal("stopped with an event in hand", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(leave)
	if status := <-answered; status != 200 {
		t.Errorf("answered %d", status)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// Payload finds what encoding/json finds, and refuses what it refuses.
func FuzzPayload(f *testing.F) {
	f.Add([]byte(`{"data_base64":"eHl6"}`))
	f.Add([]byte(`{"note":"\"data_base64\":\"AAAA\"","data_base64":"eHl6"}`))
	f.Add([]byte(`{"data_base64" : "eHl6"}`))
	f.Add([]byte(`{"data_base64":"!"}`))
	f.Add([]byte(`{"data":"x"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var event struct {
			Data []byte `json:"data_base64"`
		}
		bad := json.Unmarshal(body, &event)
		got, err := Payload("application/json", bytes.Clone(body))
		// What a sidecar sends: one object, the key once, not inside another.
		if bad != nil || bytes.Count(body, []byte("data_base64")) != 1 || bytes.Count(body, []byte("{")) != 1 || event.Data == nil {
			return
		}
		if err != nil || !bytes.Equal(got, event.Data) {
			t.Errorf("%s: %q, %v, want %q", body, got, err, event.Data)
		}
	})
}

// Taking a payload out of an event of 700 KB.
func BenchmarkPayload(b *testing.B) {
	event := cloudEvent(b, bytes.Repeat([]byte("0123456789"), 70_000))
	body := make([]byte, len(event))
	b.SetBytes(int64(len(event)))
	for b.Loop() {
		copy(body, event)
		if _, err := Payload("application/cloudevents+json", body); err != nil {
			b.Fatal(err)
		}
	}
}
