package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/ledger"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

const agentColumns = `id, name, key, enrolled_at, revoked_at, first_seen, last_seen, revision, held, expired, quarantined, lost, on_device, missing,
	readings, redelivered, open_epochs, lead, lead_mark, lead_turns, sampled_at`

func scanAgent(scan func(...any) error) (a store.Agent, err error) {
	var key []byte
	var enrolled, revoked, first, last, sampled int64
	var lead string
	err = scan(&a.ID, &a.Name, &key, &enrolled, &revoked, &first, &last, &a.Revision, &a.Held, &a.Expired, &a.Quarantined, &a.Lost, &a.OnDevice, &a.Missing,
		&a.Readings, &a.Redelivered, &a.OpenEpochs, &lead, &a.LeadMark, &a.LeadTurns, &sampled)
	if err != nil {
		return a, err
	}
	a.Key, a.EnrolledAt, a.FirstSeen, a.LastSeen = key, moment(enrolled), moment(first), moment(last)
	a.RevokedAt, a.Sampled = moment(revoked), moment(sampled)
	if lead != "" {
		a.Lead, err = telemetry.ParseEpoch(lead)
	}
	return a, err
}

// nanos is the time as a column: 0 for the zero time.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func moment(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

func epochText(e telemetry.Epoch) string {
	if e.IsZero() {
		return ""
	}
	return e.String()
}

// view runs f in one read transaction, so that what it reads fits together.
func (s *Store) view(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := s.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return unavailable(fmt.Errorf("begin reading: %w", err))
	}
	defer tx.Rollback() //nolint:errcheck // nothing was written
	return f(tx)
}

// Agent implements store.Store.
func (s *Store) Agent(ctx context.Context, name string) (a store.Agent, err error) {
	err = s.view(ctx, func(tx *sql.Tx) error {
		a, err = scanAgent(tx.QueryRowContext(ctx, "SELECT "+agentColumns+" FROM agents WHERE name = ?", name).Scan)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("agent %s: %w", name, store.ErrNotFound)
		}
		if err != nil {
			return unavailable(fmt.Errorf("read agent: %w", err))
		}
		return complete(ctx, tx, &a)
	})
	return a, err
}

// Agents implements store.Store.
func (s *Store) Agents(ctx context.Context, after string, limit int) (out []store.Agent, err error) {
	err = s.view(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, "SELECT "+agentColumns+" FROM agents WHERE name > ? ORDER BY name LIMIT ?", after, limit)
		if err != nil {
			return unavailable(fmt.Errorf("list agents: %w", err))
		}
		if out, err = collect(rows, func() (store.Agent, error) { return scanAgent(rows.Scan) }); err != nil {
			return unavailable(fmt.Errorf("list agents: %w", err))
		}
		for i := range out {
			if err := complete(ctx, tx, &out[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

func collect[T any](rows *sql.Rows, scan func() (T, error)) (out []T, err error) {
	defer rows.Close()
	for rows.Next() {
		v, err := scan()
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

// complete adds the alarms of an agent: those raised by frames, and its holes.
func complete(ctx context.Context, tx *sql.Tx, a *store.Agent) error {
	rows, err := tx.QueryContext(ctx, "SELECT kind, epoch, detail, first, last, count FROM alarms WHERE agent_id = ? ORDER BY kind, epoch LIMIT ?", a.ID, store.MaxAlarms)
	if err != nil {
		return unavailable(fmt.Errorf("read alarms: %w", err))
	}
	a.Alarms, err = collect(rows, func() (l store.Alarm, err error) {
		var epoch string
		var first, last int64
		if err := rows.Scan(&l.Kind, &epoch, &l.Detail, &first, &last, &l.Count); err != nil {
			return l, err
		}
		l.First, l.Last = moment(first), moment(last)
		l.Epoch, err = telemetry.ParseEpoch(epoch)
		return l, err
	})
	if err != nil {
		return unavailable(fmt.Errorf("read alarms: %w", err))
	}
	if a.Confirmed, err = confirmed(ctx, tx, a); err != nil {
		return failed("read confirmed time", err)
	}
	if a.Missing == 0 {
		return nil
	}
	return holes(ctx, tx, a)
}

// confirmed returns the time of the last reading before the first that is still
// on the device.
func confirmed(ctx context.Context, tx *sql.Tx, a *store.Agent) (at int64, err error) {
	ordinal, mark := int64(a.Lead.Ordinal), uint64(ledger.MaxSeq)
	err = tx.QueryRowContext(ctx, "SELECT ordinal, watermark FROM epochs WHERE agent_id = ? AND on_device > 0 ORDER BY ordinal LIMIT 1", a.ID).Scan(&ordinal, &mark)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, err
	}
	// Epochs without readings are passed over, a bounded number of them.
	rows, err := tx.QueryContext(ctx, "SELECT id, ordinal FROM epochs WHERE agent_id = ? AND ordinal <= ? AND last_received > 0 ORDER BY ordinal DESC LIMIT 8", a.ID, ordinal)
	if err != nil {
		return 0, err
	}
	list, err := collect(rows, func() (e [2]int64, err error) {
		err = rows.Scan(&e[0], &e[1])
		return e, err
	})
	for _, e := range list {
		upto := uint64(ledger.MaxSeq)
		if e[1] == ordinal {
			upto = mark
		}
		err := tx.QueryRowContext(ctx, "SELECT corrected FROM readings WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT 1", key(e[0], 1), key(e[0], upto)).Scan(&at)
		if !errors.Is(err, sql.ErrNoRows) {
			return at, err
		}
	}
	return 0, err
}

// Backlog implements store.Store.
func (s *Store) Backlog(ctx context.Context, agent string, from, to time.Time, limit int) (out []store.Sample, err error) {
	err = s.view(ctx, func(tx *sql.Tx) error {
		id, err := agentID(ctx, tx, agent)
		if err != nil {
			return err
		}
		rows, err := tx.QueryContext(ctx, "SELECT at, on_device, held FROM backlog WHERE agent_id = ? AND at >= ? AND at < ? ORDER BY at DESC LIMIT ?", id, from.UnixNano(), to.UnixNano(), limit)
		if err != nil {
			return failed("read backlog", err)
		}
		out, err = collect(rows, func() (b store.Sample, err error) {
			var at int64
			err = rows.Scan(&at, &b.OnDevice, &b.Held)
			b.At = moment(at)
			return b, err
		})
		slices.Reverse(out)
		return failed("read backlog", err)
	})
	return out, err
}

func holes(ctx context.Context, tx *sql.Tx, a *store.Agent) error {
	rows, err := tx.QueryContext(ctx, "SELECT ordinal, eid, ledger, received_at FROM epochs WHERE agent_id = ? AND missing > 0 ORDER BY ordinal, eid LIMIT ?", a.ID, store.MaxAlarms)
	if err != nil {
		return unavailable(fmt.Errorf("read holes: %w", err))
	}
	gaps, err := collect(rows, func() (store.Epoch, error) { return scanEpoch(rows.Scan) })
	if err != nil {
		return unavailable(fmt.Errorf("read holes: %w", err))
	}
	for i := range gaps {
		if err := settle(ctx, tx, a.ID, &gaps[i]); err != nil {
			return err
		}
		a.AddHole(&gaps[i])
	}
	return nil
}

func scanEpoch(scan func(...any) error) (e store.Epoch, err error) {
	var ordinal, at int64
	var id, b []byte
	if err := scan(&ordinal, &id, &b, &at); err != nil {
		return e, err
	}
	e.Epoch.Ordinal = uint64(ordinal)
	copy(e.Epoch.ID[:], id)
	e.ReceivedAt = moment(at)
	e.Ledger, err = ledger.Decode(b)
	return e, err
}

// settle finds out whether what misses of the epoch is a hole for good.
func settle(ctx context.Context, tx *sql.Tx, agent int64, e *store.Epoch) error {
	mark := e.Ledger.Device.MarkEpoch
	l := e.Ledger
	if mark != e.Epoch && !mark.IsZero() && len(l.Missing()) > 0 {
		m, err := scanEpoch(tx.QueryRowContext(ctx, "SELECT ordinal, eid, ledger, received_at FROM epochs WHERE agent_id = ? AND ordinal = ? AND eid = ?",
			agent, int64(mark.Ordinal), mark.ID[:]).Scan)
		if err != nil {
			return unavailable(fmt.Errorf("read mark: %w", err))
		}
		l = m.Ledger
	}
	e.Hole = store.IsHole(e.Ledger, l)
	return nil
}

// Epochs implements store.Store.
func (s *Store) Epochs(ctx context.Context, agent string, below telemetry.Epoch, limit int) (out []store.Epoch, err error) {
	if below.IsZero() {
		below.Ordinal = 1<<63 - 1
	}
	err = s.view(ctx, func(tx *sql.Tx) error {
		id, err := agentID(ctx, tx, agent)
		if err != nil {
			return err
		}
		rows, err := tx.QueryContext(ctx, `SELECT ordinal, eid, ledger, received_at FROM epochs
			WHERE agent_id = ? AND (ordinal, eid) < (?, ?) ORDER BY ordinal DESC, eid DESC LIMIT ?`, id, int64(below.Ordinal), below.ID[:], limit)
		if err != nil {
			return unavailable(fmt.Errorf("list epochs: %w", err))
		}
		if out, err = collect(rows, func() (store.Epoch, error) { return scanEpoch(rows.Scan) }); err != nil {
			return unavailable(fmt.Errorf("list epochs: %w", err))
		}
		for i := range out {
			if err := settle(ctx, tx, id, &out[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

func agentID(ctx context.Context, tx *sql.Tx, name string) (id int64, err error) {
	err = tx.QueryRowContext(ctx, "SELECT id FROM agents WHERE name = ?", name).Scan(&id)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return 0, fmt.Errorf("agent %s: %w", name, store.ErrNotFound)
	case err != nil:
		return 0, unavailable(fmt.Errorf("read agent: %w", err))
	}
	return id, nil
}

// Receipt implements store.Store.
func (s *Store) Receipt(ctx context.Context, agent string, epochs []telemetry.Epoch) (out store.Receipt, err error) {
	err = s.view(ctx, func(tx *sql.Tx) error {
		var id int64
		err := tx.QueryRowContext(ctx, "SELECT id, revision, revoked_at > 0 FROM agents WHERE name = ?", agent).Scan(&id, &out.Revision, &out.Revoked)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("agent %s: %w", agent, store.ErrNotFound)
		}
		if err != nil {
			return unavailable(fmt.Errorf("read agent: %w", err))
		}
		for _, e := range epochs {
			l, err := scanEpoch(tx.QueryRowContext(ctx, "SELECT ordinal, eid, ledger, received_at FROM epochs WHERE agent_id = ? AND ordinal = ? AND eid = ?",
				id, int64(e.Ordinal), e.ID[:]).Scan)
			if errors.Is(err, sql.ErrNoRows) {
				continue
			}
			if err != nil {
				return unavailable(fmt.Errorf("read ledger: %w", err))
			}
			if err := settle(ctx, tx, id, &l); err != nil {
				return err
			}
			out.Epochs = append(out.Epochs, l)
		}
		return nil
	})
	return out, err
}

// Topics implements store.Store.
func (s *Store) Topics(ctx context.Context, agent, after string, limit int) (out []store.Topic, err error) {
	err = s.view(ctx, func(tx *sql.Tx) error {
		id, err := agentID(ctx, tx, agent)
		if err != nil {
			return err
		}
		rows, err := tx.QueryContext(ctx, `SELECT id, name, coalesce((SELECT max(corrected) FROM readings WHERE topic_id = topics.id), 0)
			FROM topics WHERE agent_id = ? AND name > ? ORDER BY name LIMIT ?`, id, after, limit)
		if err == nil {
			out, err = collect(rows, func() (t store.Topic, err error) { err = rows.Scan(&t.ID, &t.Name, &t.Last); return t, err })
		}
		if err != nil {
			return unavailable(fmt.Errorf("list topics: %w", err))
		}
		return nil
	})
	return out, err
}
