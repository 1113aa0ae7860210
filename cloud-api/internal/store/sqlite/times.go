package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/clock"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/ledger"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// timeline returns what the store knows of true time around the frame's
// records, without the anchors in the frame itself.
func (s *session) timeline(m *store.Merge, epoch int64) (*clock.Timeline, error) {
	// First: the epoch's own boot decides whose anchors count.
	if start := m.FreshStart(); start != nil {
		if _, err := s.exec("UPDATE epochs SET boot = ? WHERE id = ?", start.Boot[:], epoch); err != nil {
			return nil, err
		}
	}
	recs := m.Frame.Records
	t := &clock.Timeline{}
	if err := s.points(t, epoch, recs[0].At.Boot, recs[len(recs)-1].At.Boot); err != nil {
		return nil, err
	}
	return t, s.bounds(t, epoch)
}

// points adds the synchronised anchors of the epoch from the last one at or
// before lo to the first one after hi. If there is none before lo, the nearest
// of another epoch of the same boot serves.
func (s *session) points(t *clock.Timeline, epoch int64, lo, hi time.Duration) error {
	const around = `SELECT * FROM (SELECT boot, wall FROM anchors WHERE epoch_id = ?1 AND boot <= ?2 AND synchronised ORDER BY boot DESC LIMIT 1)
		UNION ALL SELECT boot, wall FROM anchors WHERE epoch_id = ?1 AND boot > ?2 AND boot <= ?3 AND synchronised
		UNION ALL SELECT * FROM (SELECT boot, wall FROM anchors WHERE epoch_id = ?1 AND boot > ?3 AND synchronised ORDER BY boot LIMIT 1)`
	const sameBoot = `SELECT a.boot, a.wall FROM epochs own JOIN epochs e ON e.agent_id = own.agent_id AND e.boot = own.boot JOIN anchors a ON a.epoch_id = e.id
		WHERE own.id = ? AND e.id <> own.id AND a.synchronised ORDER BY abs(a.boot - ?) LIMIT 1`
	if err := s.addPoints(t, around, epoch, int64(lo), int64(max(lo, hi))); err != nil {
		return err
	}
	if len(t.Points) > 0 && t.Points[0].Boot <= lo {
		return nil
	}
	return s.addPoints(t, sameBoot, epoch, int64(lo))
}

func (s *session) addPoints(t *clock.Timeline, query string, args ...any) error {
	rows, err := s.query(query, args...)
	if err != nil {
		return err
	}
	points, err := collect(rows, func() (p clock.Point, err error) {
		var boot, wall int64
		err = rows.Scan(&boot, &wall)
		return clock.Point{Boot: time.Duration(boot), Offset: wall - boot}, err
	})
	for _, p := range points {
		t.Add(p)
	}
	return err
}

// bounds fills in what holds without an anchor.
func (s *session) bounds(t *clock.Timeline, epoch int64) error {
	if len(t.Points) > 0 {
		return nil
	}
	err := s.row(`SELECT coalesce(min(e.not_after), 0) FROM epochs own JOIN epochs e ON e.id = own.id OR e.agent_id = own.agent_id AND e.boot = own.boot
		WHERE own.id = ? AND e.not_after > 0`, []any{epoch}, &t.NotAfter)
	if err != nil {
		return err
	}
	err = s.row(`SELECT r.corrected FROM epochs own JOIN epochs p ON p.agent_id = own.agent_id AND p.ordinal < own.ordinal
		JOIN readings r ON r.id = (SELECT max(id) FROM readings WHERE id BETWEEN p.id << 40 AND (p.id << 40) + ?)
		WHERE own.id = ? ORDER BY p.ordinal DESC LIMIT 1`, []any{int64(ledger.MaxSeq), epoch}, &t.NotBefore)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	return err
}

// anchors works the frame's anchors into the timeline of its readings, and
// notes when they change times that are stored already.
func (s *session) anchors(m *store.Merge, epoch int64, t *clock.Timeline) error {
	stale := false
	for _, p := range m.Anchors() {
		stale = stale || t.Changes(p)
		t.Add(p)
	}
	if offset := m.NotAfter(); offset > 0 {
		_, err := s.exec("UPDATE epochs SET not_after = ?1 WHERE id = ?2 AND (not_after = 0 OR not_after > ?1)", offset, epoch)
		if err != nil {
			return err
		}
		if t.NotAfter == 0 || t.NotAfter > offset {
			t.NotAfter = offset
		}
	}
	if m.FreshStart() != nil {
		// What this boot's clock said elsewhere counts from now on.
		stale = stale || len(m.Ledgers[m.Frame.Epoch].Held) > 1 || m.Ledgers[m.Frame.Epoch].Held.Max() > m.Frame.Last
	}
	if !stale {
		return nil
	}
	_, err := s.exec(`UPDATE epochs SET stale = stale + 1 WHERE id IN (SELECT e.id FROM epochs own JOIN epochs e ON e.id = own.id OR e.agent_id = own.agent_id AND e.boot = own.boot
		WHERE own.id = ?)`, epoch)
	return err
}

// maintainStep is how many readings one transaction of Maintain looks at: the
// writer is kept from frames for some milliseconds.
const maintainStep = 2000

// Maintain implements store.Store.
func (s *Store) Maintain(ctx context.Context) error {
	if err := s.correctStale(ctx); err != nil {
		return err
	}
	return s.retain(ctx)
}

func (s *Store) correctStale(ctx context.Context) error {
	for {
		var epoch, stale int64
		err := s.read.QueryRowContext(ctx, "SELECT id, stale FROM epochs WHERE stale > 0 LIMIT 1").Scan(&epoch, &stale)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return unavailable(fmt.Errorf("look for stale times: %w", err))
		}
		if err := s.correct(ctx, epoch, stale); err != nil {
			return fmt.Errorf("correct times: %w", err)
		}
	}
}

// correct makes the corrected times of one epoch anew.
func (s *Store) correct(ctx context.Context, epoch, stale int64) error {
	next := epoch << seqBits
	for next != 0 {
		err := s.write.do(ctx, func(ses *session) (err error) {
			next, err = ses.correct(epoch, next)
			return failed("correct times", err)
		})
		if err != nil {
			return err
		}
	}
	return s.write.do(ctx, func(ses *session) error {
		_, err := ses.exec("UPDATE epochs SET stale = 0 WHERE id = ? AND stale = ?", epoch, stale)
		return failed("correct times", err)
	})
}

type recorded struct{ id, boot, wall, corrected int64 }

// correct looks at the readings of an epoch from key from on, and returns where
// to go on, 0 at the end.
func (s *session) correct(epoch, from int64) (next int64, err error) {
	rows, err := s.query("SELECT id, boot, recorded, corrected FROM readings WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?",
		from, epoch<<seqBits+ledger.MaxSeq, maintainStep)
	if err != nil {
		return 0, err
	}
	list, err := collect(rows, func() (r recorded, err error) {
		err = rows.Scan(&r.id, &r.boot, &r.wall, &r.corrected)
		return r, err
	})
	if err != nil || len(list) == 0 {
		return 0, err
	}
	lo, hi := list[0].boot, list[0].boot
	for _, r := range list {
		lo, hi = min(lo, r.boot), max(hi, r.boot)
	}
	t := &clock.Timeline{}
	if err := s.points(t, epoch, time.Duration(lo), time.Duration(hi)); err != nil {
		return 0, err
	}
	if err := s.bounds(t, epoch); err != nil {
		return 0, err
	}
	for _, r := range list {
		if c := t.Correct(instant(r)); c != r.corrected {
			if _, err := s.exec("UPDATE readings SET corrected = ? WHERE id = ?", c, r.id); err != nil {
				return 0, err
			}
		}
	}
	if len(list) < maintainStep {
		return 0, nil
	}
	return list[len(list)-1].id + 1, nil
}

func instant(r recorded) telemetry.Instant {
	return telemetry.Instant{Boot: time.Duration(r.boot), Wall: r.wall}
}
