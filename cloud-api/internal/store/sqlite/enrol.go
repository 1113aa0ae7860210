package sqlite

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
)

// CreateToken implements store.Store.
func (s *Store) CreateToken(ctx context.Context, t store.Token) error {
	return s.write.do(ctx, func(ses *session) error {
		_, err := ses.exec("INSERT INTO tokens (id, secret_hash, agent, prefix, uses, expires, created) VALUES (?, ?, ?, ?, ?, ?, ?)",
			t.ID, t.SecretHash[:], t.Agent, t.Prefix, t.Uses, nanos(t.Expires), nanos(t.Created))
		if err != nil {
			return unavailable(fmt.Errorf("write token: %w", err))
		}
		return nil
	})
}

// Token implements store.Store.
func (s *Store) Token(ctx context.Context, id string) (t store.Token, err error) {
	t, err = scanToken(s.read.QueryRowContext(ctx, "SELECT "+tokenColumns+" FROM tokens WHERE id = ?", id).Scan)
	return t, tokenError(err)
}

const tokenColumns = "id, secret_hash, agent, prefix, uses, used, expires, created"

func scanToken(scan func(...any) error) (t store.Token, err error) {
	var hash []byte
	var expires, created int64
	err = scan(&t.ID, &hash, &t.Agent, &t.Prefix, &t.Uses, &t.Used, &expires, &created)
	copy(t.SecretHash[:], hash)
	t.Expires, t.Created = moment(expires), moment(created)
	return t, err
}

func tokenError(err error) error {
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return fmt.Errorf("token: %w", store.ErrNotFound)
	case err != nil:
		return unavailable(fmt.Errorf("read token: %w", err))
	}
	return nil
}

// Enrol implements store.Store.
func (s *Store) Enrol(ctx context.Context, tokenID, agent string, key ed25519.PublicKey, at time.Time) error {
	return s.write.do(ctx, func(ses *session) error {
		t, err := scanToken(func(into ...any) error {
			return ses.row("SELECT "+tokenColumns+" FROM tokens WHERE id = ?", []any{tokenID}, into...)
		})
		if err = tokenError(err); errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("%w: unknown", store.ErrToken)
		} else if err != nil {
			return err
		}
		var again bool
		if err := ses.row("SELECT EXISTS (SELECT 1 FROM redemptions WHERE token_id = ? AND agent = ? AND key = ?)", []any{tokenID, agent, []byte(key)}, &again); err != nil {
			return unavailable(fmt.Errorf("read redemptions: %w", err))
		}
		var revoked int64
		if err := ses.row("SELECT coalesce(max(revoked_at), 0) FROM agents WHERE name = ?", []any{agent}, &revoked); err != nil {
			return unavailable(fmt.Errorf("read agent: %w", err))
		}
		if err := t.Check(agent, again, moment(revoked), at); err != nil {
			return err
		}
		return failed("enrol", ses.enrol(tokenID, agent, key, again, at))
	})
}

func (s *session) enrol(tokenID, agent string, key ed25519.PublicKey, again bool, at time.Time) error {
	if !again {
		if _, err := s.exec("UPDATE tokens SET used = used + 1 WHERE id = ?", tokenID); err != nil {
			return err
		}
		if _, err := s.exec("INSERT INTO redemptions (token_id, agent, key, at) VALUES (?, ?, ?, ?)", tokenID, agent, []byte(key), at.UnixNano()); err != nil {
			return err
		}
	}
	_, err := s.exec("INSERT INTO agents (name, key, enrolled_at) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET key = excluded.key, enrolled_at = excluded.enrolled_at, revoked_at = 0",
		agent, []byte(key), at.UnixNano())
	return err
}

// Revoke implements store.Store.
func (s *Store) Revoke(ctx context.Context, agent string, at time.Time) error {
	return s.write.do(ctx, func(ses *session) error {
		r, err := ses.exec("UPDATE agents SET revoked_at = ? WHERE name = ?", nanos(at), agent)
		if err != nil {
			return unavailable(fmt.Errorf("revoke agent: %w", err))
		}
		if n, err := r.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("agent %s: %w", agent, store.ErrNotFound))
		}
		return nil
	})
}

// Acknowledge implements store.Store.
func (s *Store) Acknowledge(ctx context.Context, agent string) error {
	return s.write.do(ctx, func(ses *session) error {
		a, err := ses.agent(agent)
		if err != nil {
			return err
		}
		_, err = ses.exec("DELETE FROM alarms WHERE agent_id = ?", a.ID)
		return failed("acknowledge alarms", err)
	})
}
