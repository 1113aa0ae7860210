package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// dropPatience is how long a drop waits for readers of the partition: everybody
// else waits behind it. The next maintenance tries again.
const dropPatience = "2s"

// retain drops the partitions of days that are older than the retention. The
// ledgers are told first: a crash in between leaves rows that are called expired
// and are dropped the next time.
func (s *Store) retain(ctx context.Context) error {
	_, err := s.pool.Exec(ctx, "DELETE FROM backlog WHERE at < $1", s.opt.Now().Add(-store.SamplesKept).UnixNano())
	if err != nil || s.opt.Retention <= 0 {
		return failed("remove old samples", err)
	}
	cutoff := s.opt.Now().Add(-s.opt.Retention).UnixNano() / day // days before this one are over
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
		if err := s.expire(ctx, e, ranges); err != nil {
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

// expire tells the ledger of one epoch, under the agent's lock.
func (s *Store) expire(ctx context.Context, e store.EpochRef, ranges []telemetry.Range) error {
	c := commit{Store: s, ctx: ctx}
	return s.write(ctx, func(tx pgx.Tx) error {
		c.tx = tx
		if err := c.load(&store.Frame{Agent: e.Agent, Epoch: e.Epoch}, []telemetry.Epoch{e.Epoch}); err != nil {
			return err
		}
		l := c.m.Ledgers[e.Epoch]
		for _, r := range ranges {
			c.m.Agent.Expire(l, r)
		}
		var b pgx.Batch
		b.Queue("UPDATE epochs SET ledger = $2 WHERE id = $1", e.ID, l.Encode())
		b.Queue("UPDATE agents SET held = $2, expired = $3 WHERE id = $1", c.m.Agent.ID, int64(c.m.Agent.Held), int64(c.m.Agent.Expired))
		return failed("write ledger", tx.SendBatch(ctx, &b).Close())
	})
}
