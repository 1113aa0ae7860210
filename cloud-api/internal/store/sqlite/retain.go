package sqlite

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/ledger"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// retainInterval is how often retention is looked at: it counts in days.
const retainInterval = 10 * time.Minute

// retain removes what is older than the retention, and old samples.
func (s *Store) retain(ctx context.Context) error {
	now := s.opt.Now()
	s.mu.Lock()
	due := now.Sub(s.retired) >= retainInterval
	if due {
		s.retired = now
	}
	s.mu.Unlock()
	if !due {
		return nil
	}
	err := s.write.do(ctx, func(ses *session) error {
		_, err := ses.exec("DELETE FROM backlog WHERE at < ?", now.Add(-store.SamplesKept).UnixNano())
		return failed("remove old samples", err)
	})
	if err != nil || s.opt.Retention <= 0 {
		return err
	}
	rows, err := s.read.QueryContext(ctx, "SELECT e.id, e.ordinal, e.eid, a.name FROM epochs e JOIN agents a ON a.id = e.agent_id")
	if err != nil {
		return failed("list epochs", err)
	}
	epochs, err := collect(rows, func() (e store.EpochRef, err error) {
		var id []byte
		err = rows.Scan(&e.ID, &e.Epoch.Ordinal, &id, &e.Agent)
		copy(e.Epoch.ID[:], id)
		return e, err
	})
	if err != nil {
		return failed("list epochs", err)
	}
	for _, e := range epochs {
		if err := s.retainEpoch(ctx, e, now.Add(-s.opt.Retention).UnixNano()); err != nil {
			return fmt.Errorf("remove old readings: %w", err)
		}
	}
	return nil
}

// retainEpoch removes the readings of an epoch from its lowest seq on, as far
// as they are older than cutoff. One that arrived late keeps those behind it a
// little longer than they need be.
func (s *Store) retainEpoch(ctx context.Context, e store.EpochRef, cutoff int64) error {
	for {
		r, err := s.oldest(ctx, e, cutoff)
		if err != nil || r.Len() == 0 {
			return err
		}
		err = s.write.do(ctx, func(ses *session) error { return failed("remove old readings", ses.expire(e, r)) })
		if err != nil {
			return err
		}
	}
}

// oldest returns the seqs of the first readings of an epoch that are older than
// cutoff: as many as one transaction removes.
func (s *Store) oldest(ctx context.Context, e store.EpochRef, cutoff int64) (r telemetry.Range, err error) {
	rows, err := s.read.QueryContext(ctx, "SELECT id, received FROM readings WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?", key(e.ID, 1), key(e.ID, ledger.MaxSeq), maintainStep)
	if err != nil {
		return r, failed("look for old readings", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id, received int64
		if err := rows.Scan(&id, &received); err != nil {
			return r, failed("look for old readings", err)
		}
		if received >= cutoff {
			break
		}
		seq := uint64(id) & ledger.MaxSeq
		if r.First == 0 {
			r.First = seq
		}
		r.Last = seq
	}
	return r, failed("look for old readings", rows.Err())
}

func (s *session) expire(e store.EpochRef, r telemetry.Range) error {
	if _, err := s.exec("DELETE FROM readings WHERE id BETWEEN ? AND ?", key(e.ID, r.First), key(e.ID, r.Last)); err != nil {
		return err
	}
	a, err := s.agent(e.Agent)
	if err != nil {
		return err
	}
	_, ledgers, err := s.ledgers(a.ID, []telemetry.Epoch{e.Epoch})
	if err != nil {
		return err
	}
	l := ledgers[e.Epoch]
	a.Expire(l, r)
	if _, err := s.exec("UPDATE epochs SET ledger = ? WHERE id = ?", l.Encode(), e.ID); err != nil {
		return err
	}
	return s.saveAgent(a)
}
