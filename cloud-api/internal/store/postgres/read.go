package postgres

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

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

// Agent implements store.Store.
func (s *Store) Agent(ctx context.Context, name string) (a store.Agent, err error) {
	err = s.view(ctx, func(tx pgx.Tx) error {
		a, err = scanAgent(tx.QueryRow(ctx, "SELECT "+agentColumns+" FROM agents WHERE name = $1", name).Scan)
		if err != nil {
			return agentError(name, err)
		}
		one := []store.Agent{a}
		err = complete(ctx, tx, one)
		a = one[0]
		return err
	})
	return a, err
}

// Agents implements store.Store.
func (s *Store) Agents(ctx context.Context, after string, limit int) (out []store.Agent, err error) {
	err = s.view(ctx, func(tx pgx.Tx) error {
		out, err = list(ctx, tx, scanAgent, "SELECT "+agentColumns+" FROM agents WHERE name > $1 ORDER BY name LIMIT $2", after, limit)
		if err != nil {
			return failed("list agents", err)
		}
		return complete(ctx, tx, out)
	})
	return out, err
}

func list[T any](ctx context.Context, tx pgx.Tx, scan func(func(...any) error) (T, error), query string, args ...any) (out []T, err error) {
	rows, err := tx.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		v, err := scan(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

// complete adds to agents what is not in their rows: alarms raised by frames,
// holes, and up to when they are confirmed. It asks once for all of them.
func complete(ctx context.Context, tx pgx.Tx, agents []store.Agent) error {
	at := make(map[int64]*store.Agent, len(agents))
	ids, leads := make([]int64, len(agents)), make([]int64, len(agents))
	for i := range agents {
		at[agents[i].ID] = &agents[i]
		ids[i], leads[i] = agents[i].ID, int64(agents[i].Lead.Ordinal)
	}
	rows, err := tx.Query(ctx, `SELECT a.id, l.kind, l.epoch, l.detail, l.first, l.last, l.count FROM unnest($1::bigint[]) AS a(id)
		CROSS JOIN LATERAL (SELECT * FROM alarms WHERE agent_id = a.id ORDER BY kind, epoch LIMIT $2) l ORDER BY a.id, l.kind, l.epoch`, ids, store.MaxAlarms)
	if err == nil {
		err = eachRow(rows, func(id int64, scan func(...any) error) error {
			l, err := scanAlarm(scan)
			at[id].Alarms = append(at[id].Alarms, l)
			return err
		})
	}
	if err != nil {
		return failed("read alarms", err)
	}
	if rows, err = tx.Query(ctx, confirmed, ids, leads, int64(ledger.MaxSeq)); err == nil {
		err = eachRow(rows, func(id int64, scan func(...any) error) error { return scan(&at[id].Confirmed) })
	}
	if err != nil {
		return failed("read confirmed times", err)
	}
	for i := range agents {
		if err := holes(ctx, tx, &agents[i]); err != nil {
			return err
		}
	}
	return nil
}

// eachRow calls f with each row, whose first column is an agent's number.
func eachRow(rows pgx.Rows, f func(id int64, scan func(...any) error) error) error {
	defer rows.Close()
	for rows.Next() {
		var id int64
		scan := func(into ...any) error { return rows.Scan(append([]any{&id}, into...)...) }
		if err := rows.Scan(append([]any{&id}, make([]any, len(rows.FieldDescriptions())-1)...)...); err != nil {
			return err
		}
		if err := f(id, scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// confirmed finds for each agent the time of the last reading before the first
// that is still on the device. Epochs without readings are passed over, a
// bounded number.
const confirmed = `SELECT a.id, r.corrected FROM unnest($1::bigint[], $2::bigint[]) AS a(id, lead)
	CROSS JOIN LATERAL (SELECT coalesce(o.ordinal, a.lead) AS ordinal, coalesce(o.watermark, $3) AS mark
		FROM (SELECT 1) one LEFT JOIN LATERAL (SELECT ordinal, watermark FROM epochs WHERE agent_id = a.id AND on_device > 0 ORDER BY ordinal LIMIT 1) o ON true) open
	CROSS JOIN LATERAL (SELECT found.corrected FROM
		(SELECT e.id, e.ordinal, e.first_received, e.last_received, CASE WHEN e.ordinal = open.ordinal THEN open.mark ELSE $3 END AS upto
			FROM epochs e WHERE e.agent_id = a.id AND e.ordinal <= open.ordinal AND e.last_received > 0 ORDER BY e.ordinal DESC LIMIT 8) near
		CROSS JOIN LATERAL (SELECT corrected FROM readings WHERE epoch_id = near.id AND seq <= near.upto
			AND received BETWEEN near.first_received AND near.last_received ORDER BY seq DESC LIMIT 1) found
		ORDER BY near.ordinal DESC LIMIT 1) r`

func scanAlarm(scan func(...any) error) (l store.Alarm, err error) {
	var epoch string
	var first, last int64
	if err := scan(&l.Kind, &epoch, &l.Detail, &first, &last, &l.Count); err != nil {
		return l, err
	}
	l.First, l.Last = moment(first), moment(last)
	l.Epoch, err = telemetry.ParseEpoch(epoch)
	return l, err
}

// holes adds the holes of an agent to its alarms.
func holes(ctx context.Context, tx pgx.Tx, a *store.Agent) error {
	if a.Missing == 0 {
		return nil
	}
	gaps, err := list(ctx, tx, scanEpoch, "SELECT "+epochColumns+" FROM epochs WHERE agent_id = $1 AND missing > 0 ORDER BY ordinal, eid LIMIT $2", a.ID, store.MaxAlarms)
	if err != nil {
		return failed("read holes", err)
	}
	for i := range gaps {
		if err := settle(ctx, tx, a.ID, &gaps[i]); err != nil {
			return err
		}
		a.AddHole(&gaps[i])
	}
	return nil
}

// Backlog implements store.Store.
func (s *Store) Backlog(ctx context.Context, agent string, from, to time.Time, limit int) (out []store.Sample, err error) {
	err = s.view(ctx, func(tx pgx.Tx) error {
		id, err := agentID(ctx, tx, agent)
		if err != nil {
			return err
		}
		out, err = list(ctx, tx, func(scan func(...any) error) (b store.Sample, err error) {
			var at int64
			err = scan(&at, &b.OnDevice, &b.Held)
			b.At = moment(at)
			return b, err
		}, "SELECT at, on_device, held FROM backlog WHERE agent_id = $1 AND at >= $2 AND at < $3 ORDER BY at DESC LIMIT $4", id, from.UnixNano(), to.UnixNano(), limit)
		slices.Reverse(out)
		return failed("read backlog", err)
	})
	return out, err
}

const epochColumns = "ordinal, eid, ledger, received_at"

func scanEpoch(scan func(...any) error) (e store.Epoch, err error) {
	var at int64
	var id, b []byte
	if err := scan(&e.Epoch.Ordinal, &id, &b, &at); err != nil {
		return e, err
	}
	copy(e.Epoch.ID[:], id)
	e.ReceivedAt = moment(at)
	e.Ledger, err = ledger.Decode(b)
	return e, err
}

func oneEpoch(ctx context.Context, tx pgx.Tx, agent int64, e telemetry.Epoch) (store.Epoch, error) {
	return scanEpoch(tx.QueryRow(ctx, "SELECT "+epochColumns+" FROM epochs WHERE agent_id = $1 AND ordinal = $2 AND eid = $3", agent, int64(e.Ordinal), e.ID[:]).Scan)
}

// settle finds out whether what misses of the epoch is a hole for good.
func settle(ctx context.Context, tx pgx.Tx, agent int64, e *store.Epoch) error {
	mark := e.Ledger.Device.MarkEpoch
	l := e.Ledger
	if mark != e.Epoch && !mark.IsZero() && len(l.Missing()) > 0 {
		m, err := oneEpoch(ctx, tx, agent, mark)
		if err != nil {
			return failed("read mark", err)
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
	err = s.view(ctx, func(tx pgx.Tx) error {
		id, err := agentID(ctx, tx, agent)
		if err != nil {
			return err
		}
		out, err = list(ctx, tx, scanEpoch, "SELECT "+epochColumns+" FROM epochs WHERE agent_id = $1 AND (ordinal, eid) < ($2, $3) ORDER BY ordinal DESC, eid DESC LIMIT $4",
			id, int64(below.Ordinal), below.ID[:], limit)
		if err != nil {
			return failed("list epochs", err)
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

func agentID(ctx context.Context, tx pgx.Tx, name string) (id int64, err error) {
	if err = tx.QueryRow(ctx, "SELECT id FROM agents WHERE name = $1", name).Scan(&id); err != nil {
		return 0, agentError(name, err)
	}
	return id, nil
}

// Receipt implements store.Store.
func (s *Store) Receipt(ctx context.Context, agent string, epochs []telemetry.Epoch) (out store.Receipt, err error) {
	err = s.view(ctx, func(tx pgx.Tx) error {
		var id int64
		if err := tx.QueryRow(ctx, "SELECT id, revision, revoked_at > 0 FROM agents WHERE name = $1", agent).Scan(&id, &out.Revision, &out.Revoked); err != nil {
			return agentError(agent, err)
		}
		for _, e := range epochs {
			l, err := oneEpoch(ctx, tx, id, e)
			if errors.Is(err, pgx.ErrNoRows) {
				continue
			}
			if err != nil {
				return failed("read ledger", err)
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
	err = s.view(ctx, func(tx pgx.Tx) error {
		id, err := agentID(ctx, tx, agent)
		if err != nil {
			return err
		}
		out, err = list(ctx, tx, func(scan func(...any) error) (t store.Topic, err error) {
			err = scan(&t.ID, &t.Name, &t.Last)
			return t, err
		}, `SELECT id, name, coalesce((SELECT max(corrected) FROM readings WHERE topic_id = topics.id), 0)
			FROM topics WHERE agent_id = $1 AND name > $2 ORDER BY name LIMIT $3`, id, after, limit)
		return failed("list topics", err)
	})
	return out, err
}
