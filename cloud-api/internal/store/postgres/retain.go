package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/ledger"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// dropPatience is how long a drop waits for readers of the partition: everybody
// else waits behind it. The next maintenance tries again.
const dropPatience = "2s"

// retain removes what is older than the retention: partitions of days that are
// over, and with them losses, anchors and quarantined frames; and old samples. Of
// a partition the ledgers are told first: a crash in between leaves rows that are
// called expired and are dropped the next time.
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
	if err := s.tidy(ctx, now.Add(-store.SamplesKept).UnixNano()); err != nil || s.opt.Retention <= 0 {
		return failed("remove old samples", err)
	}
	cutoff := now.Add(-s.opt.Retention).UnixNano() / day // days before this one are over
	if err := s.retainReadings(ctx, cutoff); err != nil {
		return err
	}
	if err := s.retainOthers(ctx, cutoff*day); err != nil {
		return err
	}
	return s.retainRaw(ctx, cutoff*day)
}

// tidy removes what was only of use before the time given: samples of the
// backlog, and tokens that expired.
func (s *Store) tidy(ctx context.Context, before int64) error {
	var b pgx.Batch
	for _, query := range []string{
		"DELETE FROM backlog WHERE at < $1",
		"DELETE FROM redemptions WHERE token_id IN (SELECT id FROM tokens WHERE expires < $1)",
		"DELETE FROM tokens WHERE expires < $1",
	} {
		b.Queue(query, before)
	}
	return s.pool.SendBatch(ctx, &b).Close()
}

func (s *Store) retainReadings(ctx context.Context, cutoff int64) error {
	names, err := s.oldPartitions(ctx, partition(cutoff))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := s.retire(ctx, name); err != nil {
			return fmt.Errorf("retire %s: %w", name, err)
		}
	}
	return nil
}

// oldPartitions lists the daily partitions whose names are below the one given.
func (s *Store) oldPartitions(ctx context.Context, below string) (names []string, err error) {
	err = s.view(ctx, func(tx pgx.Tx) error {
		names, err = list(ctx, tx, func(scan func(...any) error) (n string, err error) {
			err = scan(&n)
			return n, err
		}, `SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
			WHERE i.inhparent = 'readings'::regclass AND c.relname ~ '^readings_[0-9]{8}$' AND c.relname < $1 ORDER BY 1`, below)
		return failed("list partitions", err)
	})
	return names, err
}

func (s *Store) retire(ctx context.Context, name string) error {
	gone, err := s.inPartition(ctx, name)
	if err != nil {
		return err
	}
	for e, ranges := range gone {
		if err := s.expire(ctx, e.Agent, e.Epoch, func(a *store.Agent, l *ledger.Epoch) { a.Expire(l, ranges...) }); err != nil {
			return err
		}
	}
	start := time.Now()
	err = s.write(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '"+dropPatience+"'; ALTER TABLE readings DETACH PARTITION "+name+"; DROP TABLE "+name)
		return failed("drop partition", err)
	})
	if err == nil {
		s.opt.Logger.Info("postgres: old readings removed", "partition", name, "ms", time.Since(start).Milliseconds())
	}
	return err
}

// inPartition returns the runs of seqs that lie in one partition. Records that
// are no readings have no row: a run goes on over them as long as no reading of
// another partition lies between.
func (s *Store) inPartition(ctx context.Context, name string) (map[store.EpochRef][]telemetry.Range, error) {
	type run struct {
		e store.EpochRef
		r telemetry.Range
	}
	out := map[store.EpochRef][]telemetry.Range{}
	err := s.view(ctx, func(tx pgx.Tx) error {
		runs, err := list(ctx, tx, func(scan func(...any) error) (r run, err error) {
			var id []byte
			err = scan(&r.e.ID, &r.e.Epoch.Ordinal, &id, &r.e.Agent, &r.r.First, &r.r.Last)
			copy(r.e.Epoch.ID[:], id)
			return r, err
		}, `WITH here AS (SELECT epoch_id, seq, lag(seq) OVER w AS before FROM `+name+` WINDOW w AS (PARTITION BY epoch_id ORDER BY seq)),
			marked AS (SELECT epoch_id, seq, CASE WHEN before IS NULL THEN true WHEN seq = before + 1 THEN false ELSE EXISTS (
				SELECT 1 FROM readings r WHERE r.epoch_id = here.epoch_id AND r.seq > here.before AND r.seq < here.seq) END AS begins FROM here),
			numbered AS (SELECT epoch_id, seq, count(*) FILTER (WHERE begins) OVER (PARTITION BY epoch_id ORDER BY seq) AS n FROM marked)
			SELECT e.id, e.ordinal, e.eid, a.name, min(n.seq), max(n.seq) FROM numbered n JOIN epochs e ON e.id = n.epoch_id JOIN agents a ON a.id = e.agent_id
			GROUP BY e.id, e.ordinal, e.eid, a.name, n.n ORDER BY e.id, 5`)
		if err != nil {
			return failed("read partition", err)
		}
		for _, r := range runs {
			out[r.e] = append(out[r.e], r.r)
		}
		return nil
	})
	return out, err
}

// expire tells the ledger of one epoch, under the agent's lock, and does more in
// the same transaction.
func (s *Store) expire(ctx context.Context, agent string, e telemetry.Epoch, change func(*store.Agent, *ledger.Epoch), more ...func(*pgx.Batch)) error {
	return s.write(ctx, func(tx pgx.Tx) error {
		c := commit{Store: s, ctx: ctx, db: tx}
		if err := c.load(agent, []telemetry.Epoch{e}); err != nil {
			return err
		}
		a, l := c.agent, c.ledgers[e]
		change(a, l)
		var b pgx.Batch
		b.Queue("UPDATE epochs SET ledger = $2 WHERE id = $1", c.ids[e], l.Encode())
		b.Queue("UPDATE agents SET held = $2, expired = $3, quarantined = $4 WHERE id = $1", a.ID, int64(a.Held), int64(a.Expired), int64(a.Quarantined))
		for _, queue := range more {
			queue(&b)
		}
		return failed("write ledger", tx.SendBatch(ctx, &b).Close())
	})
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
			err := s.expire(ctx, o.Agent, o.Epoch, func(a *store.Agent, l *ledger.Epoch) { a.Expire(l, o.Ranges()...) }, func(b *pgx.Batch) {
				b.Queue("DELETE FROM losses WHERE epoch_id = $1 AND seq = ANY($2)", o.ID, o.Seqs)
				b.Queue("DELETE FROM anchors WHERE epoch_id = $1 AND seq = ANY($2)", o.ID, o.Seqs)
			})
			if err != nil {
				return fmt.Errorf("remove old losses and anchors: %w", err)
			}
		}
	}
}

func (s *Store) oldOthers(ctx context.Context, losses, anchors int64) (out []store.Others, err error) {
	err = s.view(ctx, func(tx pgx.Tx) error {
		out, err = list(ctx, tx, func(scan func(...any) error) (o store.Others, err error) {
			var id []byte
			err = scan(&o.ID, &o.Epoch.Ordinal, &id, &o.Agent, &o.Seqs)
			copy(o.Epoch.ID[:], id)
			return o, err
		}, `SELECT e.id, e.ordinal, e.eid, a.name, array_agg(o.seq) FROM (
			SELECT epoch_id, seq FROM losses WHERE received < $1
			UNION ALL SELECT n.epoch_id, n.seq FROM anchors n WHERE n.received < $2 AND (NOT n.synchronised
				OR EXISTS (SELECT 1 FROM anchors later WHERE later.epoch_id = n.epoch_id AND later.boot > n.boot AND later.synchronised)) LIMIT $3
			) o JOIN epochs e ON e.id = o.epoch_id JOIN agents a ON a.id = e.agent_id GROUP BY e.id, e.ordinal, e.eid, a.name`, losses, anchors, store.RetainStep)
		return failed("look for old losses and anchors", err)
	})
	return out, err
}

// retainRaw removes quarantined frames older than cutoff.
func (s *Store) retainRaw(ctx context.Context, cutoff int64) error {
	var old []store.Quarantined
	err := s.view(ctx, func(tx pgx.Tx) (err error) {
		old, err = list(ctx, tx, func(scan func(...any) error) (store.Quarantined, error) { return scanQuarantined(scan) },
			"SELECT "+quarantineColumns+" FROM quarantine WHERE trusted AND received < $1", cutoff)
		return failed("look for old frames", err)
	})
	if err != nil {
		return err
	}
	for _, q := range old {
		err := s.expire(ctx, q.Agent, q.Epoch, func(a *store.Agent, l *ledger.Epoch) { a.ExpireRaw(l, q.Seqs) }, func(b *pgx.Batch) {
			b.Queue("DELETE FROM quarantine WHERE id = $1", q.ID)
		})
		if err != nil {
			return fmt.Errorf("remove old frame: %w", err)
		}
	}
	return nil
}
