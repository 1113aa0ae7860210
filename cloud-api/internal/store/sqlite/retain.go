package sqlite

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/ledger"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// retain removes what is older than the retention, old samples and tokens that
// nobody can use any more.
func (s *Store) retain(ctx context.Context) error {
	now := s.opt.Now()
	s.mu.Lock()
	due := now.Sub(s.retired) >= store.RetainEvery
	if due {
		s.retired = now
	}
	s.mu.Unlock()
	if !due {
		return nil
	}
	err := s.write.do(ctx, func(ses *session) error {
		return failed("remove old samples", ses.tidy(now.Add(-store.SamplesKept).UnixNano()))
	})
	if err != nil || s.opt.Retention <= 0 {
		return err
	}
	cutoff := now.Add(-s.opt.Retention).UnixNano()
	if err := s.retainReadings(ctx, cutoff); err != nil {
		return err
	}
	if err := s.retainOthers(ctx, cutoff); err != nil {
		return err
	}
	return s.retainRaw(ctx, cutoff)
}

// tidy removes what was only of use before the time given.
func (s *session) tidy(before int64) error {
	for _, query := range []string{
		"DELETE FROM backlog WHERE at < ?",
		"DELETE FROM redemptions WHERE token_id IN (SELECT id FROM tokens WHERE expires < ?)",
		"DELETE FROM tokens WHERE expires < ?",
	} {
		if _, err := s.exec(query, before); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) retainReadings(ctx context.Context, cutoff int64) error {
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
		if err := s.retainEpoch(ctx, e, cutoff); err != nil {
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
	return s.retire(e.Agent, e.Epoch, func(a *store.Agent, l *ledger.Epoch) { a.Expire(l, r) })
}

// retire changes one ledger and its agent's totals.
func (s *session) retire(agent string, e telemetry.Epoch, change func(*store.Agent, *ledger.Epoch)) error {
	a, err := s.agent(agent)
	if err != nil {
		return err
	}
	ids, ledgers, err := s.ledgers(a.ID, []telemetry.Epoch{e})
	if err != nil {
		return err
	}
	change(a, ledgers[e])
	if _, err := s.exec("UPDATE epochs SET ledger = ? WHERE id = ?", ledgers[e].Encode(), ids[e]); err != nil {
		return err
	}
	return s.saveAgent(a)
}

// retainOthers removes losses older than cutoff, and anchors that no reading can
// need: the last synchronised one of an epoch stays, since what was recorded
// without a network may come much later.
func (s *Store) retainOthers(ctx context.Context, cutoff int64) error {
	for {
		old, err := s.oldOthers(ctx, cutoff, cutoff-int64(store.AnchorsLonger))
		if err != nil || len(old) == 0 {
			return err
		}
		for _, o := range old {
			err := s.write.do(ctx, func(ses *session) error { return failed("remove old losses and anchors", ses.expireOthers(&o)) })
			if err != nil {
				return err
			}
		}
	}
}

func (s *Store) oldOthers(ctx context.Context, losses, anchors int64) ([]store.Others, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT e.id, e.ordinal, e.eid, a.name, o.seq FROM (
			SELECT epoch_id, seq FROM losses WHERE received < ?1
			UNION ALL SELECT n.epoch_id, n.seq FROM anchors n WHERE n.received < ?2 AND (NOT n.synchronised
				OR EXISTS (SELECT 1 FROM anchors later WHERE later.epoch_id = n.epoch_id AND later.boot > n.boot AND later.synchronised)) LIMIT ?3
		) o JOIN epochs e ON e.id = o.epoch_id JOIN agents a ON a.id = e.agent_id ORDER BY e.id`, losses, anchors, store.RetainStep)
	if err != nil {
		return nil, failed("look for old losses and anchors", err)
	}
	defer rows.Close()
	var out []store.Others
	for rows.Next() {
		var e store.EpochRef
		var id []byte
		var seq int64
		if err := rows.Scan(&e.ID, &e.Epoch.Ordinal, &id, &e.Agent, &seq); err != nil {
			return nil, failed("look for old losses and anchors", err)
		}
		copy(e.Epoch.ID[:], id)
		if n := len(out); n == 0 || out[n-1].EpochRef != e {
			out = append(out, store.Others{EpochRef: e})
		}
		out[len(out)-1].Seqs = append(out[len(out)-1].Seqs, seq)
	}
	return out, failed("look for old losses and anchors", rows.Err())
}

func (s *session) expireOthers(o *store.Others) error {
	seqs, err := json.Marshal(o.Seqs)
	if err != nil {
		return err
	}
	for _, table := range []string{"losses", "anchors"} {
		if _, err := s.exec("DELETE FROM "+table+" WHERE epoch_id = ? AND seq IN (SELECT value FROM json_each(?))", o.ID, string(seqs)); err != nil {
			return err
		}
	}
	return s.retire(o.Agent, o.Epoch, func(a *store.Agent, l *ledger.Epoch) { a.Expire(l, o.Ranges()...) })
}

// retainRaw removes quarantined frames older than cutoff, each in a transaction
// with its ledger.
func (s *Store) retainRaw(ctx context.Context, cutoff int64) error {
	rows, err := s.read.QueryContext(ctx, "SELECT "+quarantineColumns+" FROM quarantine WHERE trusted = 1 AND received < ?", cutoff)
	if err != nil {
		return failed("look for old frames", err)
	}
	old, err := collect(rows, func() (store.Quarantined, error) { return scanQuarantined(rows.Scan) })
	if err != nil {
		return failed("look for old frames", err)
	}
	for _, q := range old {
		err := s.write.do(ctx, func(ses *session) error {
			if _, err := ses.exec("DELETE FROM quarantine WHERE id = ?", q.ID); err != nil {
				return failed("remove old frame", err)
			}
			return failed("remove old frame", ses.retire(q.Agent, q.Epoch, func(a *store.Agent, l *ledger.Epoch) { a.ExpireRaw(l, q.Seqs) }))
		})
		if err != nil {
			return err
		}
	}
	return nil
}
