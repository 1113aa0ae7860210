// Package enrol lets devices in: a device shows that it knows a token's secret
// and holds its own key, and gets the root key to pin, signed by it. The secret
// itself never travels, and the store keeps only its hash.
package enrol

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Store is what enrolment needs of a database.
type Store interface {
	Token(ctx context.Context, id string) (store.Token, error)
	Enrol(ctx context.Context, tokenID, agent string, key ed25519.PublicKey, at time.Time) error
}

// Service answers enrolment requests.
type Service struct {
	Cloud string
	Root  func() ed25519.PrivateKey // asked for each request: it can be replaced
	Store Store
}

// Enrol makes the agent known, or gives it a new key. It returns
// store.ErrToken or telemetry.ErrEnrol for a request that proves nothing.
func (s *Service) Enrol(ctx context.Context, r telemetry.EnrolRequest) (telemetry.EnrolResponse, error) {
	var none telemetry.EnrolResponse
	t, err := s.Store.Token(ctx, r.TokenID)
	if errors.Is(err, store.ErrNotFound) {
		return none, fmt.Errorf("%w: unknown", store.ErrToken)
	}
	if err != nil {
		return none, fmt.Errorf("read token: %w", err)
	}
	if err := r.Verify(t.SecretHash); err != nil {
		return none, err
	}
	if err := s.Store.Enrol(ctx, r.TokenID, r.Agent, r.PublicKey, time.Now().UTC()); err != nil {
		return none, err
	}
	return telemetry.NewEnrolResponse(s.Cloud, r, s.Root())
}

// Creator keeps new tokens.
type Creator interface {
	CreateToken(ctx context.Context, t store.Token) error
}

// Grant says whom a token lets in.
type Grant struct {
	Agent  string        // the only agent; empty: any, or any with Prefix
	Prefix string        // of agent ids
	Uses   int           // keys it may enrol; at least 1
	TTL    time.Duration // until it expires
}

// Create makes a token and keeps its hash. The text of what it returns is the
// secret to hand to the device.
func Create(ctx context.Context, c Creator, root ed25519.PublicKey, g Grant, now time.Time) (telemetry.Token, error) {
	t := telemetry.NewToken(root)
	err := c.CreateToken(ctx, store.Token{
		ID: t.ID, SecretHash: t.SecretHash(), Agent: g.Agent, Prefix: g.Prefix, Uses: g.Uses, Expires: now.Add(g.TTL).UTC(), Created: now.UTC(),
	})
	if err != nil {
		return telemetry.Token{}, fmt.Errorf("keep token: %w", err)
	}
	return t, nil
}
