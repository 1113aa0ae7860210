package enrol

import (
	"context"
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// book keeps one token and who was let in.
type book struct {
	token  store.Token
	broken error
	let    string
}

func (b *book) CreateToken(_ context.Context, t store.Token) error {
	b.token = t
	return b.broken
}

func (b *book) Token(_ context.Context, id string) (store.Token, error) {
	if b.broken != nil {
		return store.Token{}, b.broken
	}
	if id != b.token.ID {
		return store.Token{}, store.ErrNotFound
	}
	return b.token, nil
}

func (b *book) Enrol(_ context.Context, id, agent string, _ ed25519.PublicKey, _ time.Time) error {
	b.let = id + " " + agent
	return b.broken
}

func setUp(t *testing.T) (*book, *Service, telemetry.Token, ed25519.PrivateKey) {
	t.Helper()
	_, root, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &book{}
	tok, err := Create(t.Context(), b, root.Public().(ed25519.PublicKey), Grant{Agent: "a", Uses: 1, TTL: time.Hour}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return b, &Service{Cloud: "c", Root: func() ed25519.PrivateKey { return root }, Store: b}, tok, key
}

func request(t *testing.T, tok telemetry.Token, key ed25519.PrivateKey) telemetry.EnrolRequest {
	t.Helper()
	r, err := telemetry.NewEnrolRequest(tok, "a", key)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The store keeps the hash of a token's secret and nothing that leads back to
// it, and the token's terms.
func TestCreateKeepsOnlyTheHash(t *testing.T) {
	b, s, tok, _ := setUp(t)
	if b.token.SecretHash != tok.SecretHash() || b.token.ID != tok.ID || b.token.Agent != "a" || b.token.Uses != 1 || time.Until(b.token.Expires) > time.Hour {
		t.Errorf("%+v", b.token)
	}
	if tok.Fingerprint != telemetry.Fingerprint(s.Root().Public().(ed25519.PublicKey)) {
		t.Error("the token names another root")
	}
	b.broken = store.ErrUnavailable
	if _, err := Create(t.Context(), b, s.Root().Public().(ed25519.PublicKey), Grant{}, time.Now()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a token that was not kept is given out: %v", err)
	}
}

// Who shows that it knows the secret is let in and gets the root, signed.
func TestEnrolAnswersWithTheRoot(t *testing.T) {
	b, s, tok, key := setUp(t)
	req := request(t, tok, key)
	resp, err := s.Enrol(t.Context(), req)
	if err != nil || b.let != tok.ID+" a" {
		t.Fatalf("%q, %v", b.let, err)
	}
	if root, err := resp.Verify(tok, req); err != nil || !root.Equal(s.Root().Public()) {
		t.Error(err)
	}
}

// Who does not, changes nothing in the store.
func TestEnrolRefuses(t *testing.T) {
	b, s, tok, key := setUp(t)
	wrong, unknown := tok, telemetry.NewToken(s.Root().Public().(ed25519.PublicKey))
	wrong.Secret = unknown.Secret
	forged := request(t, tok, key)
	forged.PublicKey = s.Root().Public().(ed25519.PublicKey)
	for name, req := range map[string]telemetry.EnrolRequest{"wrong secret": request(t, wrong, key), "unknown token": request(t, unknown, key), "another key": forged, "empty": {}} {
		if _, err := s.Enrol(t.Context(), req); !errors.Is(err, store.ErrToken) && !errors.Is(err, telemetry.ErrEnrol) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if b.let != "" {
		t.Errorf("let in: %s", b.let)
	}
	b.broken = store.ErrUnavailable
	if _, err := s.Enrol(t.Context(), request(t, tok, key)); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("without a store: %v", err)
	}
}
