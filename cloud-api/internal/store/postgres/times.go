package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/clock"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// timesOf returns what is known of true time around the records that the frames
// bring of an epoch, with their own anchors worked in, and notes when those change
// stored times.
func (c *commit) timesOf(e telemetry.Epoch, merges []*store.Merge) (*clock.Timeline, error) {
	id := c.ids[e]
	var start *telemetry.Start
	var anchors []clock.Point
	lo, hi, notAfter, last := time.Duration(math.MaxInt64), time.Duration(0), int64(0), uint64(0)
	for _, m := range merges {
		if m.Frame.Epoch != e || len(m.Fresh) == 0 {
			continue
		}
		recs := m.Frame.Records
		lo, hi = min(lo, recs[0].At.Boot), max(hi, recs[len(recs)-1].At.Boot)
		if s := m.FreshStart(); s != nil {
			start = s
		}
		if n := m.NotAfter(); n > 0 && (notAfter == 0 || n < notAfter) {
			notAfter = n
		}
		anchors, last = append(anchors, m.Anchors()...), max(last, m.Frame.Last)
	}
	if start != nil { // first: the epoch's own boot decides whose anchors count
		if _, err := c.db.Exec(c.ctx, "UPDATE epochs SET boot = $1 WHERE id = $2", start.Boot[:], id); err != nil {
			return nil, err
		}
	}
	t, err := timeline(c.ctx, c.db, id, lo, hi)
	if err != nil {
		return nil, err
	}
	stale := false
	for _, p := range anchors {
		stale = stale || t.Changes(p)
		t.Add(p)
	}
	if start != nil {
		// What this boot's clock said elsewhere counts from now on.
		held := c.ledgers[e].Held
		stale = stale || len(held) > 1 || held.Max() > last
	}
	if notAfter > 0 && (t.NotAfter == 0 || t.NotAfter > notAfter) {
		t.NotAfter = notAfter
	}
	c.noteTimes(id, notAfter, stale)
	return t, nil
}

// noteTimes keeps the bound that frames proved, and that times are to be made anew.
func (c *commit) noteTimes(epoch, notAfter int64, stale bool) {
	if notAfter > 0 {
		c.out.Queue("UPDATE epochs SET not_after = $1 WHERE id = $2 AND (not_after = 0 OR not_after > $1)", notAfter, epoch)
	}
	if stale {
		c.out.Queue("UPDATE epochs SET stale = epochs.stale + 1 FROM epochs own WHERE own.id = $1 AND (epochs.id = own.id OR epochs.agent_id = own.agent_id AND epochs.boot = own.boot)", epoch)
	}
}

// timeline reads the synchronised anchors of the epoch from the last one at or
// before lo to the first one after hi; the nearest of another epoch of the same
// boot if there is none before lo; and the bounds if there is none at all.
func timeline(ctx context.Context, db querier, epoch int64, lo, hi time.Duration) (*clock.Timeline, error) {
	var b pgx.Batch
	b.Queue(`(SELECT boot, wall FROM anchors WHERE epoch_id = $1 AND boot <= $2 AND synchronised ORDER BY boot DESC LIMIT 1)
		UNION ALL SELECT boot, wall FROM anchors WHERE epoch_id = $1 AND boot > $2 AND boot <= $3 AND synchronised
		UNION ALL (SELECT boot, wall FROM anchors WHERE epoch_id = $1 AND boot > $3 AND synchronised ORDER BY boot LIMIT 1)`, epoch, int64(lo), int64(max(lo, hi)))
	b.Queue(`SELECT a.boot, a.wall FROM epochs own JOIN epochs e ON e.agent_id = own.agent_id AND e.boot = own.boot JOIN anchors a ON a.epoch_id = e.id
		WHERE own.id = $1 AND e.id <> own.id AND a.synchronised ORDER BY abs(a.boot - $2) LIMIT 1`, epoch, int64(lo))
	r := db.SendBatch(ctx, &b)
	around, err := points(r)
	sameBoot, err2 := points(r)
	if err := errors.Join(err, err2, r.Close()); err != nil {
		return nil, err
	}
	t := &clock.Timeline{}
	for _, p := range around {
		t.Add(p)
	}
	if len(t.Points) == 0 || t.Points[0].Boot > lo {
		for _, p := range sameBoot {
			t.Add(p)
		}
	}
	if len(t.Points) > 0 {
		return t, nil
	}
	return t, bounds(ctx, db, t, epoch)
}

func points(r pgx.BatchResults) ([]clock.Point, error) {
	rows, err := r.Query()
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (clock.Point, error) {
		var boot, wall int64
		err := row.Scan(&boot, &wall)
		return clock.Point{Boot: time.Duration(boot), Offset: wall - boot}, err
	})
}

func bounds(ctx context.Context, db querier, t *clock.Timeline, epoch int64) error {
	var b pgx.Batch
	b.Queue(`SELECT coalesce(min(e.not_after), 0) FROM epochs own JOIN epochs e ON e.id = own.id OR e.agent_id = own.agent_id AND e.boot = own.boot
		WHERE own.id = $1 AND e.not_after > 0`, epoch)
	b.Queue(`SELECT r.corrected FROM (SELECT p.* FROM epochs own JOIN epochs p ON p.agent_id = own.agent_id AND p.ordinal < own.ordinal AND p.last_received > 0
			WHERE own.id = $1 ORDER BY p.ordinal DESC LIMIT 1) p
		JOIN readings r ON r.epoch_id = p.id AND r.received BETWEEN p.first_received AND p.last_received ORDER BY r.seq DESC LIMIT 1`, epoch)
	r := db.SendBatch(ctx, &b)
	err := r.QueryRow().Scan(&t.NotAfter)
	if before := r.QueryRow().Scan(&t.NotBefore); !errors.Is(before, pgx.ErrNoRows) {
		err = errors.Join(err, before)
	}
	return errors.Join(err, r.Close())
}

// maintainStep is how many readings one transaction of Maintain looks at.
const maintainStep = 5000

// Maintain implements store.Store.
func (s *Store) Maintain(ctx context.Context) error {
	if err := s.partitions(ctx); err != nil {
		return err
	}
	if err := s.correctStale(ctx); err != nil {
		return err
	}
	return s.retain(ctx)
}

func (s *Store) correctStale(ctx context.Context) error {
	for {
		var epoch, stale int64
		err := s.pool.QueryRow(ctx, "SELECT id, stale FROM epochs WHERE stale > 0 ORDER BY id LIMIT 1").Scan(&epoch, &stale)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return failed("look for stale times", err)
		}
		if err := s.correct(ctx, epoch, stale); err != nil {
			return fmt.Errorf("correct times: %w", err)
		}
	}
}

// correct makes the corrected times of one epoch anew.
func (s *Store) correct(ctx context.Context, epoch, stale int64) error {
	for next := int64(1); next != 0; {
		err := s.write(ctx, func(tx pgx.Tx) (err error) {
			next, err = correctStep(ctx, tx, epoch, next)
			return failed("correct times", err)
		})
		if err != nil {
			return err
		}
	}
	_, err := s.pool.Exec(ctx, "UPDATE epochs SET stale = 0 WHERE id = $1 AND stale = $2", epoch, stale)
	return failed("note corrected times", err)
}

type recorded struct{ seq, received, boot, wall, corrected int64 }

// correctStep looks at the readings of an epoch from seq from on, and returns
// where to go on, 0 at the end.
func correctStep(ctx context.Context, tx pgx.Tx, epoch, from int64) (next int64, err error) {
	rows, err := list(ctx, tx, func(scan func(...any) error) (r recorded, err error) {
		err = scan(&r.seq, &r.received, &r.boot, &r.wall, &r.corrected)
		return r, err
	}, `SELECT r.seq, r.received, r.boot, r.recorded, r.corrected FROM epochs e JOIN readings r ON r.epoch_id = e.id AND r.received BETWEEN e.first_received AND e.last_received
		WHERE e.id = $1 AND r.seq >= $2 ORDER BY r.seq LIMIT $3`, epoch, from, maintainStep)
	if err != nil || len(rows) == 0 {
		return 0, err
	}
	lo, hi := rows[0].boot, rows[0].boot
	for _, r := range rows {
		lo, hi = min(lo, r.boot), max(hi, r.boot)
	}
	t, err := timeline(ctx, tx, epoch, time.Duration(lo), time.Duration(hi))
	if err != nil {
		return 0, err
	}
	var seqs, received, corrected []int64
	for _, r := range rows {
		if c := t.Correct(telemetry.Instant{Boot: time.Duration(r.boot), Wall: r.wall}); c != r.corrected {
			seqs, received, corrected = append(seqs, r.seq), append(received, r.received), append(corrected, c)
		}
	}
	if len(seqs) > 0 {
		_, err = tx.Exec(ctx, `UPDATE readings r SET corrected = n.corrected FROM unnest($2::bigint[], $3::bigint[], $4::bigint[]) AS n(seq, received, corrected)
			WHERE r.epoch_id = $1 AND r.seq = n.seq AND r.received = n.received`, epoch, seqs, received, corrected)
	}
	if err != nil || len(rows) < maintainStep {
		return 0, err
	}
	return rows[len(rows)-1].seq + 1, nil
}
