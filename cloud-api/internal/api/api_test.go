package api_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/api"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/dashboard"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/enrol"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/feed"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store/sqlite"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// site is the public listener on a free port over a real store.
type site struct {
	t     *testing.T
	url   string
	store *sqlite.Store
	root  ed25519.PrivateKey
	ready error
	told  chan string
}

var received = time.Date(2026, 5, 4, 10, 0, 0, 123456789, time.UTC)

func open(t *testing.T, access *api.Access) *site {
	t.Helper()
	return openOver(t, access, func(st *sqlite.Store) api.Store { return st })
}

// openOver puts something between the listener and the store.
func openOver(t *testing.T, access *api.Access, over func(*sqlite.Store) api.Store) *site {
	t.Helper()
	st, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(t.TempDir(), "cloud.db")})
	if err != nil {
		t.Fatal(err)
	}
	_, root, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, store: st, root: root, told: make(chan string, 9)}
	live := feed.New(feed.Options{Store: st, Watchers: 3, Logger: slog.New(slog.DiscardHandler)})
	work, stopWork := context.WithCancel(context.Background())
	fed := make(chan error, 1)
	go func() { fed <- live.Run(work) }()
	server, err := api.New(api.Options{
		Tell: func(agent string) { s.told <- agent },
		Feed: live, Store: over(st), Enroller: &enrol.Service{Cloud: "test", Root: func() ed25519.PrivateKey { return root }, Store: st}, Access: access, Dashboard: dashboard.Routes,
		Ready: func(context.Context) ([]string, error) { return []string{"a note"}, s.ready }, Logger: slog.New(slog.DiscardHandler), Gatherer: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.url = "http://" + ln.Addr().String()
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		stopWork()
		if err := errors.Join(<-fed, server.Shutdown(ctx), <-ended, st.Close()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *site) do(method, path string, body []byte, header ...string) (*http.Response, []byte) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp, b
}

// get decodes a good answer.
func (s *site) get(path string, into any) {
	s.t.Helper()
	resp, b := s.do(http.MethodGet, path, nil)
	if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		s.t.Fatalf("GET %s: %d %s", path, resp.StatusCode, b)
	}
	if err := json.Unmarshal(b, into); err != nil {
		s.t.Fatalf("GET %s: %v in %s", path, err, b)
	}
}

// refused checks that an answer is a problem document with the status.
func (s *site) refused(status int, method, path string, body []byte, header ...string) string {
	s.t.Helper()
	resp, b := s.do(method, path, body, header...)
	var p struct {
		Type, Title, Detail string
		Status              int
		RequestID           string `json:"request_id"`
	}
	err := json.Unmarshal(b, &p)
	if resp.StatusCode != status || err != nil || p.Status != status || p.Title == "" || p.RequestID == "" || resp.Header.Get("Content-Type") != "application/problem+json" {
		s.t.Errorf("%s %s: %d %s %s, want %d", method, path, resp.StatusCode, resp.Header.Get("Content-Type"), b, status)
	}
	return p.Detail
}

func (s *site) agent(name string) {
	s.t.Helper()
	tok := store.Token{ID: name, Agent: name, Uses: 1, Expires: received.Add(time.Hour)}
	if err := s.store.CreateToken(s.t.Context(), tok); err != nil {
		s.t.Fatal(err)
	}
	if err := s.store.Enrol(s.t.Context(), name, name, make([]byte, 32), received); err != nil {
		s.t.Fatal(err)
	}
}

var epoch = telemetry.Epoch{Ordinal: 2, ID: [8]byte{0xab}}

func (s *site) commit(agent string, first uint64, payloads ...string) {
	s.t.Helper()
	f := store.Frame{Agent: agent, Epoch: epoch, First: first, Last: first + uint64(len(payloads)) - 1, Received: received}
	for i, p := range payloads {
		f.Records = append(f.Records, telemetry.Record{
			Seq: first + uint64(i), Kind: telemetry.KindReading, At: telemetry.Instant{Boot: 1, Wall: received.Add(-time.Minute).UnixNano()},
			Reading: &telemetry.Reading{Topic: "plant/<b>", QoS: 1, Payload: []byte(p)},
		})
	}
	f.Open = []telemetry.OpenEpoch{{Epoch: epoch, Lowest: 1, Durable: f.Last + 2}}
	if _, err := s.store.Commit(s.t.Context(), f); err != nil {
		s.t.Fatal(err)
	}
}

// A reading has all its fields, times in UTC to the nanosecond, and a payload
// that is text or base64.
func TestReadingsAreComplete(t *testing.T) {
	s := open(t, nil)
	s.agent("a")
	s.commit("a", 1, `{"t":21.5}`, "\xff\x00", "</script>\u2028", "")
	var page struct {
		Readings []map[string]any
		Next     *string
	}
	s.get("/v1/readings?agent=a", &page)
	want := []map[string]any{}
	for i, p := range [][2]string{{`{"t":21.5}`, "utf-8"}, {"/wA=", "base64"}, {"</script>\u2028", "utf-8"}, {"", "utf-8"}} {
		want = append(want, map[string]any{
			"agent": "a", "epoch": "2-ab00000000000000", "seq": float64(i + 1), "topic": "plant/<b>", "qos": 1.0, "dup": false, "retained": false,
			"payload": p[0], "payload_encoding": p[1], "recorded_at": "2026-05-04T09:59:00.123456789Z",
			"corrected_at": "2026-05-04T09:59:00.123456789Z", "received_at": "2026-05-04T10:00:00.123456789Z",
		})
	}
	if fmt.Sprint(page.Readings) != fmt.Sprint(want) || page.Next != nil {
		t.Errorf("%v\nwant %v", page.Readings, want)
	}
}

// Following `next` to its end gives every reading once.
func TestPagesFollowNext(t *testing.T) {
	s := open(t, nil)
	s.agent("a")
	s.agent("b")
	s.commit("a", 1, "1", "2", "3", "4", "5")
	s.commit("b", 1, "1", "2", "3")
	for _, order := range []string{"", "&order=desc&agent=a"} {
		seen := map[string]int{}
		for next := "-"; next != ""; {
			var page struct {
				Readings []struct {
					Agent string
					Seq   int
				}
				Next string
			}
			path := "/v1/readings?limit=2" + order
			if next != "-" {
				path += "&cursor=" + url.QueryEscape(next)
			}
			s.get(path, &page)
			for _, r := range page.Readings {
				seen[fmt.Sprint(r.Agent, r.Seq)]++
			}
			next = page.Next
		}
		if want := map[string]int{"": 8, "&order=desc&agent=a": 5}[order]; len(seen) != want {
			t.Errorf("order %q: %v", order, seen)
		}
	}
}

// An agent shows where each of its records is.
func TestAgentShowsItsLedger(t *testing.T) {
	s := open(t, nil)
	s.agent("a")
	s.commit("a", 3, "x", "y")
	var a struct {
		ID                         string
		Epoch                      string
		Watermark, Held            int
		OnDevice                   int `json:"on_device"`
		Lost, Expired, Unexplained int
		Redelivered                int
		FirstSeen                  time.Time `json:"first_seen"`
		LastSeen                   time.Time `json:"last_seen"`
		Alarms                     []any
		Epochs                     []struct {
			Epoch    string
			Durable  int
			Held     []map[string]int
			OnDevice []map[string]int `json:"on_device"`
		}
	}
	s.get("/v1/agents/a", &a)
	if a.ID != "a" || a.Epoch != epoch.String() || a.Watermark != 0 || a.Held != 2 || a.OnDevice != 4 || !a.FirstSeen.Equal(received) || a.Alarms == nil {
		t.Errorf("%+v", a)
	}
	if e := a.Epochs[0]; len(a.Epochs) != 1 || fmt.Sprint(e.Held) != "[map[first:3 last:4]]" || fmt.Sprint(e.OnDevice) != "[map[first:1 last:2] map[first:5 last:6]]" || e.Durable != 6 {
		t.Errorf("%+v", a.Epochs)
	}
	var list struct{ Agents []struct{ ID string } }
	s.get("/v1/agents", &list)
	if len(list.Agents) != 1 || list.Agents[0].ID != "a" {
		t.Errorf("%+v", list)
	}
	var topics struct{ Topics []struct{ Topic string } }
	s.get("/v1/agents/a/topics", &topics)
	if len(topics.Topics) != 1 || topics.Topics[0].Topic != "plant/<b>" {
		t.Errorf("%+v", topics)
	}
}

// Everything that is wrong is a problem document with its own status, and none
// of them shows SQL or a stack.
func TestErrorsAreProblemDocuments(t *testing.T) {
	s := open(t, nil)
	s.agent("a")
	for _, c := range []struct {
		status int
		path   string
		says   string
	}{
		{404, "/nothing", ""},
		{404, "/v1/agents/nobody", "not known"},
		{404, "/v1/agents/" + url.PathEscape("'; DROP TABLE agents; --"), "no agent"},
		{404, "/v1/readings?agent=nobody", "not known"},
		{400, "/v1/readings?agent=" + url.QueryEscape("A B"), "agent"},
		{400, "/v1/readings?agnt=a", "agnt"},
		{400, "/v1/readings?agent=a&agent=b", "2 times"},
		{400, "/v1/readings?limit=0", "limit"},
		{400, "/v1/readings?limit=10001", "10000"},
		{400, "/v1/readings?limit=9999999999999999999999", "limit"},
		{400, "/v1/readings?from=yesterday", "from"},
		{400, "/v1/readings?to=0001-01-01T00:00:00Z", "to"},
		{400, "/v1/readings?cursor=%00", "cursor"},
		{400, "/v1/readings?cursor=e30AA", "cursor"},
		{400, "/v1/readings?order=up", "order"},
		{400, "/v1/readings?topic=a%23", "topic"},
		{400, "/v1/readings?a=%zz", "query"},
		{400, "/v1/agents?limit=x", "limit"},
		{400, "/v1/agents/a?below=x", "below"},
		{400, "/v1/quarantine?below=x", "below"},
		{404, "/v1/quarantine/x", ""},
		{404, "/v1/quarantine/7", ""},
	} {
		detail := s.refused(c.status, http.MethodGet, c.path, nil)
		if !strings.Contains(detail, c.says) || strings.Contains(detail, "SELECT") || strings.Contains(detail, "goroutine") {
			t.Errorf("%s: %q", c.path, detail)
		}
	}
	s.refused(405, http.MethodDelete, "/v1/agents", nil)
	s.refused(413, http.MethodPost, "/v1/enrol", make([]byte, 100<<10))
}

// A database that is gone is said as such, and the server goes on.
func TestDatabaseGoneIsUnavailable(t *testing.T) {
	s := open(t, nil)
	if err := s.store.Close(); err != nil {
		t.Fatal(err)
	}
	s.refused(503, http.MethodGet, "/v1/agents", nil)
	s.refused(503, http.MethodGet, "/v1/readings", nil)
	if resp, _ := s.do(http.MethodGet, "/healthz", nil); resp.StatusCode != 200 {
		t.Errorf("healthz: %d", resp.StatusCode)
	}
}

// Readiness says why there is none.
func TestReadyzFollowsTheServer(t *testing.T) {
	s := open(t, nil)
	if resp, b := s.do(http.MethodGet, "/readyz", nil); resp.StatusCode != 200 || string(b) != "ready\nnote: a note\n" {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
	s.ready = errors.New("shutting down")
	if detail := s.refused(503, http.MethodGet, "/readyz", nil); !strings.Contains(detail, "shutting down") {
		t.Errorf("%q", detail)
	}
}

// tokens writes a file of access tokens and opens it.
func tokens(t *testing.T, lines ...string) (*api.Access, string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(file, []byte("# tokens\n\n"+strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := api.OpenAccess(file, slog.New(slog.DiscardHandler))
	return a, file, err
}

func token(t *testing.T, c api.Caller) (text, line string) {
	t.Helper()
	text, line, err := api.NewToken(c)
	if err != nil {
		t.Fatal(err)
	}
	return text, line
}

// With access tokens nothing but health, enrolment, the page and the description
// is open, and a token opens what its role allows.
func TestAccessNeedsAToken(t *testing.T) {
	reader, line := token(t, api.Caller{Name: "grafana", Role: api.Reader})
	admin, line2 := token(t, api.Caller{Name: "ops", Role: api.Admin})
	access, _, err := tokens(t, line, line2)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, access)
	s.agent("a")
	path := func(r api.Route) string { return strings.NewReplacer("{id}", "a").Replace(r.Path) }
	for _, r := range api.Routes() {
		if r.Role == api.Anyone {
			if resp, b := s.do(r.Method, path(r), nil); resp.StatusCode == 401 || resp.StatusCode == 403 {
				t.Errorf("%s: %d %s", r.Path, resp.StatusCode, b)
			}
			continue
		}
		for _, header := range []string{"", "Bearer wrong", "Basic " + admin, "Bearer ", "bearer " + admin, strings.Fields(line)[0]} {
			s.refused(401, r.Method, path(r), nil, "Authorization", header)
		}
		if r.Role == api.Admin {
			s.refused(403, r.Method, path(r), nil, "Authorization", "Bearer "+reader)
		}
	}
	for _, path := range []string{"/", "/app.js"} {
		if resp, _ := s.do(http.MethodGet, path, nil); resp.StatusCode != 200 {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	var me struct{ Name, Role string }
	for tok, want := range map[string]string{reader: "grafana read", admin: "ops admin"} {
		_, b := s.do(http.MethodGet, "/v1/me", nil, "Authorization", "Bearer "+tok)
		if err := json.Unmarshal(b, &me); err != nil || me.Name+" "+me.Role != want {
			t.Errorf("%s, want %s", b, want)
		}
	}
	if resp, _ := s.do(http.MethodPost, "/v1/agents/a/acknowledge", nil, "Authorization", "Bearer "+admin); resp.StatusCode != 204 {
		t.Errorf("acknowledge: %d", resp.StatusCode)
	}
}

// An admin shuts an agent out and takes it back; the agent hears of both at once.
func TestRevokeAndAllow(t *testing.T) {
	s := open(t, nil)
	s.agent("a")
	s.commit("a", 1, "x")
	revoked := func() *time.Time {
		var a struct {
			RevokedAt *time.Time `json:"revoked_at"`
		}
		s.get("/v1/agents/a", &a)
		return a.RevokedAt
	}
	for _, verb := range []string{"revoke", "allow"} {
		s.refused(404, http.MethodPost, "/v1/agents/nobody/"+verb, nil)
		if resp, b := s.do(http.MethodPost, "/v1/agents/a/"+verb, nil); resp.StatusCode != 204 {
			t.Fatalf("%s: %d %s", verb, resp.StatusCode, b)
		}
		if at := revoked(); (at != nil) != (verb == "revoke") {
			t.Errorf("after %s: revoked at %v", verb, at)
		}
	}
	if len(s.told) != 2 || <-s.told != "a" || <-s.told != "a" {
		t.Error("the agent is not told")
	}
}

// A token for some agents shows no other, in no list and under no address.
func TestTokenForSomeAgents(t *testing.T) {
	text, line := token(t, api.Caller{Name: "tenant", Role: api.Admin, Agents: []string{"a", "pi-*"}})
	access, _, err := tokens(t, line)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, access)
	for _, name := range []string{"a", "aa", "b", "pi-1"} {
		s.agent(name)
		s.commit(name, 1, "secret of "+name)
		if err := s.store.Reject(t.Context(), store.Rejected{Agent: name, Why: "forged", Raw: []byte("zz"), Received: received}); err != nil {
			t.Fatal(err)
		}
	}
	auth := []string{"Authorization", "Bearer " + text}
	for _, path := range []string{"/v1/agents", "/v1/readings", "/v1/readings?order=desc", "/v1/readings?topic=%23", "/v1/quarantine"} {
		resp, b := s.do(http.MethodGet, path, nil, auth...)
		if resp.StatusCode != 200 || !bytes.Contains(b, []byte(`"pi-1"`)) || bytes.Contains(b, []byte(`"aa"`)) || bytes.Contains(b, []byte(`"b"`)) {
			t.Errorf("%s: %d %s", path, resp.StatusCode, b)
		}
	}
	for _, path := range []string{"/v1/agents/b", "/v1/agents/b/topics", "/v1/readings?agent=b", "/v1/live?agent=b", "/v1/series?agent=b&topic=t&from=2026-01-01T00:00:00Z&to=2027-01-01T00:00:00Z"} {
		s.refused(404, http.MethodGet, path, nil, auth...)
	}
	for _, path := range []string{"/v1/agents/b/revoke", "/v1/agents/b/allow", "/v1/agents/b/acknowledge"} {
		s.refused(404, http.MethodPost, path, nil, auth...)
	}
	s.refused(404, http.MethodGet, "/v1/quarantine/3", nil, auth...)
	s.refused(403, http.MethodGet, "/metrics", nil, auth...)
}

// A token that is added or removed counts some seconds later; a file that is
// broken meanwhile changes nothing.
func TestTokensAreReadAgain(t *testing.T) {
	first, line := token(t, api.Caller{Name: "first", Role: api.Reader})
	second, line2 := token(t, api.Caller{Name: "second", Role: api.Reader})
	access, file, err := tokens(t, line)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, access)
	allowed := func(tok string) bool {
		resp, _ := s.do(http.MethodGet, "/v1/me", nil, "Authorization", "Bearer "+tok)
		return resp.StatusCode == 200
	}
	if !allowed(first) || allowed(second) {
		t.Fatal("before")
	}
	for _, content := range []string{"broken", line2} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5100 * time.Millisecond) // the time that the file is believed for
		if got := allowed(second); got != (content == line2) {
			t.Errorf("second is allowed: %t", got)
		}
	}
	if allowed(first) {
		t.Error("the first is still allowed")
	}
}

// A file of access tokens that has none, or a broken line, is an error that
// names the place and repeats nothing of it.
func TestBadAccessFileIsRefused(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	for name, line := range map[string]string{
		"empty": "# none", "short": "abcd x", "token itself": "QWERTYUIOPASDFGHJKLZXCVBNM", "no name": sum, "role": sum + " x root", "agents": sum + " x read A,b",
		"star inside": sum + " x read a*b", "more": sum + " x read a b",
	} {
		if _, file, err := tokens(t, line); err == nil || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "QWERTY") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := api.OpenAccess(filepath.Join(t.TempDir(), "missing"), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("missing file is taken")
	}
}

// A caller that asks too often is told to wait; others are not. Who guesses tokens
// is a caller too, by its address.
func TestRateIsLimited(t *testing.T) {
	one, line := token(t, api.Caller{Name: "one", Role: api.Reader})
	two, line2 := token(t, api.Caller{Name: "two", Role: api.Reader})
	access, _, err := tokens(t, line, line2)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, access)
	for _, token := range []string{one, "a guess"} {
		limited := false
		for range 2000 {
			resp, _ := s.do(http.MethodGet, "/v1/me", nil, "Authorization", "Bearer "+token)
			if limited = resp.StatusCode == 429; limited {
				if resp.Header.Get("Retry-After") == "" {
					t.Error("no Retry-After")
				}
				break
			}
		}
		if !limited {
			t.Error("2000 requests in a row are answered")
		}
	}
	if resp, _ := s.do(http.MethodGet, "/v1/me", nil, "Authorization", "Bearer "+two); resp.StatusCode != 200 {
		t.Errorf("another caller: %d", resp.StatusCode)
	}
}

// Readings come in the format that is asked for, with the next page's place in a
// header.
func TestFormats(t *testing.T) {
	s := open(t, nil)
	s.agent("a")
	s.commit("a", 1, "1", "2", "3")
	for accept, want := range map[string]string{"application/x-ndjson": `"payload":"2"`, "text/csv": ",2,utf-8,", "application/vnd.apache.parquet": "PAR1"} {
		resp, b := s.do(http.MethodGet, "/v1/readings?limit=2", nil, "Accept", accept)
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != accept || !bytes.Contains(b, []byte(want)) || resp.Header.Get("Next-Cursor") == "" {
			t.Errorf("%s: %d %v %s", accept, resp.StatusCode, resp.Header, b)
		}
	}
	if resp, _ := s.do(http.MethodGet, "/v1/readings", nil, "Accept", "text/csv"); resp.Header.Get("Next-Cursor") != "" {
		t.Error("the last page has a next")
	}
	s.refused(406, http.MethodGet, "/v1/readings", nil, "Accept", "image/png")
	if resp, _ := s.do(http.MethodGet, "/v1/readings", nil, "Accept", "text/html,*/*;q=0.8"); resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("a browser gets %v", resp.Header)
	}
}

// A series has min, max, average, count and last value of each bucket, and
// leaves out what has no number there.
func TestSeries(t *testing.T) {
	s := open(t, nil)
	s.agent("a")
	f := store.Frame{Agent: "a", Epoch: epoch, First: 1, Received: received}
	start := received.Truncate(time.Hour)
	for i, p := range []string{`{"v":1}`, `{"v":3}`, `{"v":2}`, `no json`, `{"v":"text"}`, `{"v":10}`} {
		at := start.Add(time.Duration(i) * time.Minute)
		f.Records = append(f.Records, telemetry.Record{
			Seq: uint64(i + 1), Kind: telemetry.KindReading, At: telemetry.Instant{Wall: at.UnixNano()}, Reading: &telemetry.Reading{Topic: "t", Payload: []byte(p)},
		})
	}
	f.Last = uint64(len(f.Records))
	if _, err := s.store.Commit(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	between := "&from=" + start.Format(time.RFC3339) + "&to=" + start.Add(10*time.Minute).Format(time.RFC3339)
	var got struct {
		Readings int
		Other    int `json:"readings_other"`
		Buckets  []struct {
			At                  string
			Count               int
			Min, Max, Avg, Last float64
		}
	}
	s.get("/v1/series?agent=a&topic=t&field=/v&buckets=2"+between, &got)
	want := "[{2026-05-04T10:00:00.000000000Z 3 1 3 2 2} {2026-05-04T10:05:00.000000000Z 1 10 10 10 10}]"
	if fmt.Sprint(got.Buckets) != want || got.Readings != 6 || got.Other != 2 {
		t.Errorf("%+v, want %s", got, want)
	}
	for _, q := range []string{"agent=a&topic=t&field=v" + between, "agent=a&topic=t%2F%23&field=/v" + between, "topic=t" + between, "agent=a&topic=t", "agent=a&topic=t&buckets=2001" + between} {
		s.refused(400, http.MethodGet, "/v1/series?"+q, nil)
	}
	s.refused(404, http.MethodGet, "/v1/series?agent=nobody&topic=t"+between, nil)
}

// live opens a stream of server-sent events: when it returns the stream watches.
func (s *site) live(path string, header ...string) *bufio.Scanner {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	s.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		s.t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	return bufio.NewScanner(resp.Body)
}

// events reads a stream until it has n events. An event without an id of its own
// has an empty one.
func events(lines *bufio.Scanner, n int) (ids, data []string) {
	id := ""
	for len(data) < n && lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			id = v
		}
		if v, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			ids, data, id = append(ids, id), append(data, v), ""
		}
	}
	return ids, data
}

// Live readings arrive as events beyond the server's write timeout, filtered. The
// last of those received together carries the id that resumes: who was cut off
// between them gets all of them again.
func TestLive(t *testing.T) {
	s := open(t, nil)
	s.agent("a")
	s.agent("b")
	live := s.live("/v1/live?agent=a&topic=plant/%2B")
	time.Sleep(11 * time.Second) // longer than the write timeout of other answers
	s.commit("b", 1, "of b")
	s.commit("a", 1, "first")
	s.commit("a", 2, "second", "third")
	_, data := events(live, 3)
	if len(data) != 3 || !strings.Contains(data[0], `"payload":"first"`) || !strings.Contains(data[1], `"payload":"second"`) || !strings.Contains(data[2], `"payload":"third"`) {
		t.Errorf("%v", data)
	}
	before := received.Add(-time.Second).UnixNano()
	ids, data := events(s.live("/v1/live", "Last-Event-ID", fmt.Sprint(before)), 4)
	if want := []string{"", "", "", fmt.Sprint(received.UnixNano())}; len(data) != 4 || !slices.Equal(ids, want) {
		t.Errorf("resumed with %v %v", ids, data)
	}
	s.refused(400, http.MethodGet, "/v1/live", nil, "Last-Event-ID", "x")
	s.refused(400, http.MethodGet, "/v1/live?topic=a%23", nil)
}

// year is a store with a value each second of a year.
type year struct{ *sqlite.Store }

func (year) Values(_ context.Context, _, _ string, from, _ int64, f func(int64, []byte) error) error {
	for at := from; at < from+365*24*int64(time.Hour); at += int64(time.Second) {
		if err := f(at, []byte("1")); err != nil {
			return err
		}
	}
	return nil
}

// A chart that would look at a year of values stops at a bound and says what to
// do, and the server goes on.
func TestYearOfValuesIsRefused(t *testing.T) {
	s := openOver(t, nil, func(st *sqlite.Store) api.Store { return year{st} })
	const series = "/v1/series?agent=a&topic=t&from=2026-01-01T00:00:00Z&to=2027-01-01T00:00:00Z"
	if detail := s.refused(422, http.MethodGet, series, nil); !strings.Contains(detail, "ask for a shorter time") {
		t.Errorf("detail %q", detail)
	}
	s.refused(404, http.MethodGet, "/v1/agents/nobody", nil)
}

// Connections that watch beyond the bound are refused, and those that went make
// room.
func TestLiveConnectionsAreBounded(t *testing.T) {
	s := open(t, nil)
	var bodies []io.Closer
	for range 3 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/v1/live", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		bodies = append(bodies, resp.Body)
	}
	s.refused(503, http.MethodGet, "/v1/live", nil)
	for _, b := range bodies {
		b.Close()
	}
}

// A device enrols with a token, again with the same key, and no other key does;
// the answer is signed by the root that the token names.
func TestEnrolment(t *testing.T) {
	s := open(t, nil)
	tok, err := enrol.Create(t.Context(), s.store, s.root.Public().(ed25519.PublicKey), enrol.Grant{Agent: "pi-1", Uses: 1, TTL: time.Hour}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	request := func(tok telemetry.Token, agent string, key ed25519.PrivateKey) (telemetry.EnrolRequest, []byte) {
		req, err := telemetry.NewEnrolRequest(tok, agent, key)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		return req, b
	}
	_, key, _ := ed25519.GenerateKey(nil)
	_, other, _ := ed25519.GenerateKey(nil)
	for range 2 {
		req, body := request(tok, "pi-1", key)
		if bytes.Contains(body, []byte(tok.Secret)) {
			t.Fatal("the secret travels")
		}
		resp, b := s.do(http.MethodPost, "/v1/enrol", body)
		answer, err := telemetry.ParseEnrolResponse(b)
		if resp.StatusCode != 200 || err != nil {
			t.Fatalf("%d %s", resp.StatusCode, b)
		}
		if root, err := answer.Verify(tok, req); err != nil || !root.Equal(s.root.Public()) || answer.Cloud != "test" {
			t.Fatalf("%+v, %v", answer, err)
		}
	}
	wrong := tok
	wrong.Secret = strings.Repeat("a", len(tok.Secret))
	unknown := telemetry.NewToken(s.root.Public().(ed25519.PublicKey))
	for name, c := range map[string]struct {
		tok   telemetry.Token
		agent string
		key   ed25519.PrivateKey
	}{
		"another key": {tok, "pi-1", other}, "another agent": {tok, "pi-2", key}, "wrong secret": {wrong, "pi-1", key}, "unknown token": {unknown, "pi-1", key},
	} {
		_, body := request(c.tok, c.agent, c.key)
		if detail := s.refused(403, http.MethodPost, "/v1/enrol", body); !strings.Contains(detail, "token create") {
			t.Errorf("%s: %s", name, detail)
		}
	}
	for _, body := range []string{"", "{", "[]", `{"token_id":"x"}`, `{"agent":"A B"}`} {
		s.refused(400, http.MethodPost, "/v1/enrol", []byte(body))
	}
	if a, err := s.store.Agent(t.Context(), "pi-1"); err != nil || !a.Key.Equal(key.Public()) {
		t.Errorf("%+v, %v", a, err)
	}
}

// What was set aside is listed, and its bytes can be had.
func TestQuarantineIsShown(t *testing.T) {
	s := open(t, nil)
	s.agent("a")
	f := store.Frame{Agent: "a", Epoch: epoch, First: 1, Last: 3, Raw: []byte("raw"), Why: "broken", Received: received}
	if _, err := s.store.Commit(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	if err := s.store.Reject(t.Context(), store.Rejected{Agent: "<x>", Why: "forged", Raw: []byte("zz"), Received: received}); err != nil {
		t.Fatal(err)
	}
	type frame struct {
		ID      int
		Agent   string
		Trusted bool
		Why     string
		Seqs    *struct{ First, Last int }
		Raw     []byte
	}
	var list struct{ Frames []frame }
	s.get("/v1/quarantine", &list)
	if len(list.Frames) != 2 || list.Frames[0].Trusted || list.Frames[0].Agent != "<x>" || list.Frames[0].Seqs != nil || !list.Frames[1].Trusted || list.Frames[1].Seqs.Last != 3 {
		t.Fatalf("%+v", list)
	}
	var one frame
	s.get(fmt.Sprintf("/v1/quarantine/%d", list.Frames[1].ID), &one)
	if string(one.Raw) != "raw" {
		t.Errorf("%+v", one)
	}
}

// Every answer carries a request id, the caller's when it is a plain word, and
// headers that keep a browser from running anything but the page's own files.
func TestHeaders(t *testing.T) {
	s := open(t, nil)
	resp, _ := s.do(http.MethodGet, "/", nil, "X-Request-Id", "abc-1")
	if resp.Header.Get("X-Request-Id") != "abc-1" || !strings.Contains(resp.Header.Get("Content-Security-Policy"), "default-src 'none'") || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%v", resp.Header)
	}
	resp, _ = s.do(http.MethodGet, "/", nil, "X-Request-Id", "a b\"<script>")
	if id := resp.Header.Get("X-Request-Id"); len(id) < 16 || strings.Contains(id, "<") {
		t.Errorf("%q", id)
	}
	if resp, _ = s.do(http.MethodGet, "/", nil, "If-None-Match", resp.Header.Get("ETag")); resp.StatusCode != 304 {
		t.Errorf("%d for what the browser has", resp.StatusCode)
	}
}

// A client that sends its headers slowly is cut off and holds up nobody.
func TestSlowClientIsCutOff(t *testing.T) {
	s := open(t, nil)
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET /healthz HTTP/1.1\r\nHost: x\r\n")); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(9 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); err != nil {
		t.Errorf("still open after the read timeout of 5 s: %v", err)
	}
}
