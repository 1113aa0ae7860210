package postgres

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
)

// CreateToken implements store.Store.
func (s *Store) CreateToken(ctx context.Context, t store.Token) error {
	_, err := s.pool.Exec(ctx, "INSERT INTO tokens (id, secret_hash, agent, prefix, uses, expires, created) VALUES ($1, $2, $3, $4, $5, $6, $7)",
		t.ID, t.SecretHash[:], t.Agent, t.Prefix, t.Uses, nanos(t.Expires), nanos(t.Created))
	return failed("write token", err)
}

const tokenColumns = "id, secret_hash, agent, prefix, uses, used, expires, created"

func scanToken(scan func(...any) error) (t store.Token, err error) {
	var hash []byte
	var expires, created int64
	err = scan(&t.ID, &hash, &t.Agent, &t.Prefix, &t.Uses, &t.Used, &expires, &created)
	if errors.Is(err, pgx.ErrNoRows) {
		return t, fmt.Errorf("token: %w", store.ErrNotFound)
	}
	copy(t.SecretHash[:], hash)
	t.Expires, t.Created = moment(expires), moment(created)
	return t, failed("read token", err)
}

// Token implements store.Store.
func (s *Store) Token(ctx context.Context, id string) (store.Token, error) {
	return scanToken(s.pool.QueryRow(ctx, "SELECT "+tokenColumns+" FROM tokens WHERE id = $1", id).Scan)
}

// Enrol implements store.Store. The token's row is locked, so that two devices
// cannot share its last use.
func (s *Store) Enrol(ctx context.Context, tokenID, agent string, key ed25519.PublicKey, at time.Time) error {
	return s.write(ctx, func(tx pgx.Tx) error {
		t, err := scanToken(tx.QueryRow(ctx, "SELECT "+tokenColumns+" FROM tokens WHERE id = $1 FOR UPDATE", tokenID).Scan)
		if errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("%w: unknown", store.ErrToken)
		}
		if err != nil {
			return err
		}
		var again bool
		err = tx.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM redemptions WHERE token_id = $1 AND agent = $2 AND key = $3)", tokenID, agent, []byte(key)).Scan(&again)
		if err != nil {
			return failed("read redemptions", err)
		}
		var revoked int64
		err = tx.QueryRow(ctx, "SELECT revoked_at FROM agents WHERE name = $1 FOR UPDATE", agent).Scan(&revoked)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return failed("read agent", err)
		}
		if err := t.Check(agent, again, moment(revoked), at); err != nil {
			return err
		}
		var b pgx.Batch
		if !again {
			b.Queue("UPDATE tokens SET used = used + 1 WHERE id = $1", tokenID)
			b.Queue("INSERT INTO redemptions (token_id, agent, key, at) VALUES ($1, $2, $3, $4)", tokenID, agent, []byte(key), at.UnixNano())
		}
		b.Queue("INSERT INTO agents (name, key, enrolled_at) VALUES ($1, $2, $3) ON CONFLICT (name) DO UPDATE SET key = excluded.key, enrolled_at = excluded.enrolled_at, revoked_at = 0",
			agent, []byte(key), at.UnixNano())
		return failed("enrol", tx.SendBatch(ctx, &b).Close())
	})
}

// Revoke implements store.Store.
func (s *Store) Revoke(ctx context.Context, agent string, at time.Time) error {
	tag, err := s.pool.Exec(ctx, "UPDATE agents SET revoked_at = $2 WHERE name = $1", agent, nanos(at))
	if err == nil && tag.RowsAffected() == 0 {
		return fmt.Errorf("agent %s: %w", agent, store.ErrNotFound)
	}
	return failed("revoke agent", err)
}

// Acknowledge implements store.Store.
func (s *Store) Acknowledge(ctx context.Context, agent string) error {
	return s.write(ctx, func(tx pgx.Tx) error {
		id, err := agentID(ctx, tx, agent)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "DELETE FROM alarms WHERE agent_id = $1", id)
		return failed("acknowledge alarms", err)
	})
}
