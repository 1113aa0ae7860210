package api_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/api"
)

// provider is an identity provider with one key.
type provider struct {
	t     *testing.T
	url   string
	key   atomic.Pointer[ecdsa.PrivateKey]
	id    atomic.Pointer[string]
	asked atomic.Int64
	later atomic.Int64                  // how much later than now the server believes it is, in nanoseconds
	hold  atomic.Pointer[chan struct{}] // when set: nobody is answered before it is closed
}

func newProvider(t *testing.T) *provider {
	p := &provider{t: t}
	p.rotate("one")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.asked.Add(1)
		if hold := p.hold.Load(); hold != nil {
			<-*hold
		}
		var answer any = map[string]string{"issuer": p.url, "jwks_uri": p.url + "/keys"}
		if r.URL.Path == "/keys" {
			answer = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: p.key.Load().Public(), KeyID: *p.id.Load(), Use: "sig"}}}
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	p.url = s.URL
	t.Cleanup(s.Close)
	return p
}

func (p *provider) rotate(id string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	p.key.Store(key)
	p.id.Store(&id)
}

// token signs claims; what is given replaces the good ones, nil removes.
func (p *provider) token(change map[string]any) string {
	p.t.Helper()
	claims := map[string]any{
		"iss": p.url, "aud": []string{"holdfast", "other"}, "sub": "alice", "exp": time.Now().Add(time.Hour).Unix(), "roles": []string{"x", "holdfast-read"},
	}
	for k, v := range change {
		if claims[k] = v; v == nil {
			delete(claims, k)
		}
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: p.key.Load()}, (&jose.SignerOptions{}).WithHeader("kid", *p.id.Load()))
	if err != nil {
		p.t.Fatal(err)
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		p.t.Fatal(err)
	}
	return text
}

func (p *provider) access() *api.Access {
	a, err := api.OpenAccess("", slog.New(slog.DiscardHandler))
	if err != nil {
		p.t.Fatal(err)
	}
	a.OIDC = api.NewOIDC(api.OIDCOptions{Issuer: p.url, Audience: "holdfast", RolesClaim: "roles", AgentsClaim: "agents", Now: func() time.Time { return time.Now().Add(time.Duration(p.later.Load())) }})
	return a
}

// A token of the provider opens what its role and its agents allow.
func TestOIDCTokenOpens(t *testing.T) {
	p := newProvider(t)
	s := open(t, p.access())
	s.agent("a")
	s.agent("b")
	for _, c := range []struct {
		change map[string]any
		path   string
		status int
	}{
		{nil, "/v1/agents", 200},
		{nil, "/v1/quarantine", 403},
		{map[string]any{"roles": "holdfast-read holdfast-admin"}, "/v1/quarantine", 200},
		{map[string]any{"agents": []string{"a"}}, "/v1/agents/a", 200},
		{map[string]any{"agents": []string{"a"}}, "/v1/agents/b", 404},
		{map[string]any{"agents": []string{}}, "/v1/agents", 401},
		{map[string]any{"roles": []string{"x"}}, "/v1/agents", 403},
		{map[string]any{"roles": nil}, "/v1/agents", 403},
		{map[string]any{"aud": "other"}, "/v1/agents", 401},
		{map[string]any{"iss": "https://evil.example"}, "/v1/agents", 401},
		{map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}, "/v1/agents", 401},
		{map[string]any{"exp": nil}, "/v1/agents", 401},
		{map[string]any{"sub": nil}, "/v1/agents", 401},
		{map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}, "/v1/agents", 401},
	} {
		resp, b := s.do(http.MethodGet, c.path, nil, "Authorization", "Bearer "+p.token(c.change))
		if resp.StatusCode != c.status {
			t.Errorf("%v on %s: %d %s, want %d", c.change, c.path, resp.StatusCode, b, c.status)
		}
	}
	if n := p.asked.Load(); n > 2 {
		t.Errorf("the provider was asked %d times", n)
	}
}

// What the provider's key did not sign opens nothing: another key under the same
// name, no signature, a secret as key, a changed payload.
func TestOIDCForgeriesAreRefused(t *testing.T) {
	p := newProvider(t)
	s := open(t, p.access())
	good := p.token(nil)
	if resp, _ := s.do(http.MethodGet, "/v1/agents", nil, "Authorization", "Bearer "+good); resp.StatusCode != 200 {
		t.Fatalf("good token: %d", resp.StatusCode)
	}
	other := newProvider(t)
	other.url = p.url
	parts := strings.Split(good, ".")
	none := "eyJhbGciOiJub25lIiwia2lkIjoib25lIn0." + parts[1] + "."
	hmac, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: []byte(strings.Repeat("k", 32))}, (&jose.SignerOptions{}).WithHeader("kid", "one"))
	if err != nil {
		t.Fatal(err)
	}
	secret, err := jwt.Signed(hmac).Claims(map[string]any{"iss": p.url, "aud": "holdfast", "sub": "x", "exp": time.Now().Add(time.Hour).Unix(), "roles": "holdfast-admin"}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	admin := strings.Split(p.token(map[string]any{"roles": "holdfast-admin"}), ".")
	for name, token := range map[string]string{
		"another key": other.token(nil), "none": none, "secret": secret, "changed": parts[0] + "." + admin[1] + "." + parts[2], "noise": "a.b.c", "empty": "",
	} {
		s.refused(401, http.MethodGet, "/v1/agents", nil, "Authorization", "Bearer "+token)
		_ = name
	}
}

// A provider that rotated its key is asked again, but not by every forgery; the
// token that the old key signed opens nothing any more.
func TestOIDCProviderIsAskedSparingly(t *testing.T) {
	p := newProvider(t)
	s := open(t, p.access())
	status := func(token string) int {
		resp, _ := s.do(http.MethodGet, "/v1/me", nil, "Authorization", "Bearer "+token)
		return resp.StatusCode
	}
	first := p.token(nil)
	if got := status(first); got != 200 {
		t.Fatalf("%d", got)
	}
	asked := p.asked.Load()
	p.rotate("two")
	for range 50 {
		s.refused(401, http.MethodGet, "/v1/me", nil, "Authorization", "Bearer "+p.token(nil))
	}
	if n := p.asked.Load() - asked; n != 0 {
		t.Errorf("asked %d times within 30 s", n)
	}
	if got := status(first); got != 200 {
		t.Errorf("the key that is known: %d", got)
	}
	p.later.Store(int64(time.Minute))
	if got := status(p.token(nil)); got != 200 {
		t.Errorf("the new key, a minute later: %d", got)
	}
	if got := status(first); got != 401 {
		t.Errorf("the old key: %d", got)
	}
}

// A provider that does not answer holds up nobody whose key is known, and lets
// nobody else in.
func TestOIDCProviderThatHangs(t *testing.T) {
	p := newProvider(t)
	s := open(t, p.access())
	token := p.token(map[string]any{"exp": time.Now().Add(24 * time.Hour).Unix()})
	status := func() int {
		resp, _ := s.do(http.MethodGet, "/v1/me", nil, "Authorization", "Bearer "+token)
		return resp.StatusCode
	}
	if got := status(); got != 200 {
		t.Fatalf("%d", got)
	}
	hold := make(chan struct{})
	p.hold.Store(&hold)
	p.later.Store(int64(2 * time.Hour)) // its keys are old now
	asked := p.asked.Load()
	first := make(chan int, 1)
	go func() { first <- status() }()
	for deadline := time.Now().Add(time.Minute); p.asked.Load() == asked; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody asks")
		}
	}
	if got := status(); got != 200 {
		t.Errorf("while one asks: %d", got)
	}
	select {
	case got := <-first:
		t.Errorf("%d: who asked did not wait, so nobody was seen to go on meanwhile", got)
	default:
	}
	close(hold)
	if got := <-first; got != 200 {
		t.Errorf("who asked: %d", got)
	}
}

// Keys are read only from where nobody on the way can change them.
func TestSafeURL(t *testing.T) {
	for u, want := range map[string]bool{
		"https://id.example/x": true, "http://127.0.0.1:1/x": true, "http://localhost/x": true, "http://[::1]:9/": true,
		"http://id.example/x": false, "ftp://127.0.0.1/": false, "": false, "id.example": false, "http://127.0.0.1.evil.example/": false,
	} {
		if got := api.SafeURL(u); got != want {
			t.Errorf("%s: %t", u, got)
		}
	}
}
