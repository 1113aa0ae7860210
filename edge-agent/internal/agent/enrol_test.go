package agent

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// cloud answers enrolments as cloud-api does, or with a status of its own.
type cloud struct {
	*httptest.Server
	root  ed25519.PrivateKey
	token telemetry.Token
	code  atomic.Int32
	asked atomic.Int32
}

func newCloud(t *testing.T) *cloud {
	t.Helper()
	pub, root, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &cloud{root: root, token: telemetry.NewToken(pub)}
	c.Server = httptest.NewServer(http.HandlerFunc(c.enrol))
	t.Cleanup(c.Close)
	return c
}

func (c *cloud) enrol(w http.ResponseWriter, r *http.Request) {
	c.asked.Add(1)
	if code := c.code.Load(); code != 0 {
		w.WriteHeader(int(code))
		return
	}
	text, err := io.ReadAll(r.Body)
	if err != nil || r.URL.Path != "/v1/enrol" || r.Method != http.MethodPost {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	answer, err := c.answer(text)
	if err != nil {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	_, _ = w.Write(answer)
}

func (c *cloud) answer(request []byte) ([]byte, error) {
	req, err := telemetry.ParseEnrolRequest(request)
	if err != nil {
		return nil, err
	}
	if err := req.Verify(c.token.SecretHash()); err != nil {
		return nil, err
	}
	resp, err := telemetry.NewEnrolResponse("cloud-1", req, c.root)
	if err != nil {
		return nil, err
	}
	return json.Marshal(resp)
}

// An agent that is enrolled while it runs notices, and pins that cloud's root.
func TestRunningAgentNoticesItsEnrolment(t *testing.T) {
	r := start(t, settings(t))
	c := newCloud(t)
	if r.roots.Root() != nil {
		t.Fatal("enrolled before it was")
	}
	if _, err := Enrol(t.Context(), r.config.Data, "pi-1", c.URL+"/", c.token); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return r.roots.Root().Equal(c.root.Public()) })
	if log := r.log.String(); strings.Contains(log, c.token.Secret) {
		t.Error("the token's secret is in the log")
	}
}

// Whoever is not the cloud that the token names, or answers another request,
// enrols nobody.
func TestEnrolmentIsProved(t *testing.T) {
	c, other := newCloud(t), newCloud(t)
	dir := t.TempDir()
	f := func(name string, answer []byte, req telemetry.EnrolRequest) {
		t.Helper()
		if _, err := Accept(dir, c.token, req, answer); !errors.Is(err, telemetry.ErrEnrol) {
			t.Errorf("%s: got %v", name, err)
		}
		if _, err := Enrolled(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: enrolled all the same", name)
		}
	}
	req, err := Request(dir, "pi-1", c.token)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Request(dir, "pi-1", c.token)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := telemetry.NewEnrolResponse("cloud-1", req, other.root)
	if err != nil {
		t.Fatal(err)
	}
	good, err := telemetry.NewEnrolResponse("cloud-1", req, c.root)
	if err != nil {
		t.Fatal(err)
	}
	f("another root", encode(t, forged), req)
	f("another request", encode(t, good), again)
	f("no JSON", []byte("<html>"), req)
	if _, err := Accept(dir, c.token, req, encode(t, good)); err != nil {
		t.Fatal(err)
	}
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A refusal is told from a cloud that is not there yet.
func TestRefusalIsToldFromAbsence(t *testing.T) {
	f := func(code int32, denied bool) {
		t.Helper()
		c := newCloud(t)
		c.code.Store(code)
		_, err := Enrol(t.Context(), t.TempDir(), "pi-1", c.URL, c.token)
		if err == nil || errors.Is(err, errDenied) != denied {
			t.Errorf("%d: got %v", code, err)
		}
	}
	f(403, true)
	f(400, true)
	f(409, true)
	f(404, false)
	f(429, false)
	f(503, false)
}

// With a URL and a token in its settings the agent enrols by itself, also when
// the cloud comes later, and asks no more once it is.
func TestAgentEnrolsByItself(t *testing.T) {
	c := newCloud(t)
	c.code.Store(503)
	dir := t.TempDir()
	tokenFile := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte(c.token.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	e := &enroller{dir: dir, agent: "pi-1", url: c.URL, tokenFile: tokenFile, log: slog.New(slog.DiscardHandler)}
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	time.Sleep(100 * time.Millisecond)
	c.code.Store(0)
	eventually(t, func() bool { _, err := Enrolled(dir); return err == nil })
	asked := c.asked.Load()
	cancel()
	if err := <-ended; err != nil || c.asked.Load() != asked {
		t.Errorf("got %v, asked %d times after %d", err, c.asked.Load(), asked)
	}
	e.url = "http://127.0.0.1:1"
	over, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := e.Run(over); err != nil {
		t.Errorf("enrolled already: got %v", err)
	}
}

// An enrolment of another agent, or a damaged one, counts for nothing and is told.
func TestEnrolmentOfAnotherAgent(t *testing.T) {
	c := newCloud(t)
	dir := t.TempDir()
	if _, err := Enrol(t.Context(), dir, "pi-2", c.URL, c.token); err != nil {
		t.Fatal(err)
	}
	r := &roots{dir: dir, agent: "pi-1", log: slog.New(slog.DiscardHandler)}
	if trouble := r.look(); !strings.Contains(trouble, "pi-2") || r.Root() != nil {
		t.Errorf("got %q, root %x", trouble, r.Root())
	}
	path := filepath.Join(dir, enrolmentFile)
	for _, text := range []string{"{", `{"root": "AAAA"}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if trouble := r.look(); !strings.Contains(trouble, path) || r.Root() != nil {
			t.Errorf("%s: got %q", text, trouble)
		}
	}
}

// The key is made once, is private, and stays the same; a damaged one is an
// error, never replaced.
func TestKey(t *testing.T) {
	dir := t.TempDir()
	key, err := LoadOrMakeKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, keyFile)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrMakeKey(dir)
	if err != nil || !key.Equal(again) {
		t.Fatalf("another key: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v", info.Mode(), err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "x", string(text[:len(text)/2]), strings.ToUpper(string(text))} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadOrMakeKey(dir); err == nil || strings.Contains(err.Error(), string(text[40:60])) {
			t.Errorf("%.20q: got %v", bad, err)
		}
		if kept, err := os.ReadFile(path); err != nil || string(kept) != bad {
			t.Errorf("the file was changed")
		}
	}
}

// Enrolled by root, the agent's files belong to the user that the folder
// belongs to.
func TestFilesBelongToTheFoldersOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIP: only root can give files away")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 1234, 1234); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrMakeKey(dir); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, keyFile))
	if err != nil {
		t.Fatal(err)
	}
	if owner := info.Sys().(*syscall.Stat_t); owner.Uid != 1234 || owner.Gid != 1234 {
		t.Errorf("the key belongs to %d:%d", owner.Uid, owner.Gid)
	}
}
