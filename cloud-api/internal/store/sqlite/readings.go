package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/ledger"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Readings implements store.Store.
func (s *Store) Readings(ctx context.Context, q store.Query) (page store.Page, err error) {
	err = s.view(ctx, func(tx *sql.Tx) error {
		page, err = store.Scan(q, source{ctx, tx})
		return err
	})
	return page, err
}

// Values implements store.Store.
func (s *Store) Values(ctx context.Context, agent, topic string, from, to int64, f func(at int64, payload []byte) error) error {
	return s.view(ctx, func(tx *sql.Tx) error {
		id, err := agentID(ctx, tx, agent)
		if err != nil {
			return err
		}
		rows, err := tx.QueryContext(ctx, `SELECT r.corrected, r.payload FROM topics t JOIN readings r INDEXED BY readings_by_topic ON r.topic_id = t.id
			WHERE t.agent_id = ? AND t.name = ? AND r.corrected >= ? AND r.corrected < ? ORDER BY r.corrected`, id, topic, from, to)
		if err != nil {
			return failed("read values", err)
		}
		defer rows.Close()
		for rows.Next() {
			var at int64
			var payload sql.RawBytes
			if err := rows.Scan(&at, &payload); err != nil {
				return failed("read values", err)
			}
			if err := f(at, payload); err != nil {
				return err
			}
		}
		return failed("read values", rows.Err())
	})
}

// Newest implements store.Store.
func (s *Store) Newest(ctx context.Context, limit int) (out []store.EpochRef, err error) {
	err = s.view(ctx, func(tx *sql.Tx) error {
		out, err = source{ctx, tx}.Newest(limit, nil)
		return err
	})
	return out, err
}

// source is a store.Source within one read transaction.
type source struct {
	ctx context.Context
	tx  *sql.Tx
}

func (s source) AgentID(name string) (int64, error) { return agentID(s.ctx, s.tx, name) }

func (s source) NextAgent(name string, from bool) (id int64, next string, err error) {
	op := ">"
	if from {
		op = ">="
	}
	err = s.tx.QueryRowContext(s.ctx, "SELECT id, name FROM agents WHERE name "+op+" ? ORDER BY name LIMIT 1", name).Scan(&id, &next)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, "", nil
	}
	return id, next, failed("list agents", err)
}

// failed wraps what the database says; nil stays nil.
func failed(doing string, err error) error {
	if err == nil {
		return nil
	}
	return unavailable(fmt.Errorf("%s: %w", doing, err))
}

func (s source) EpochsFrom(agent int64, from telemetry.Epoch, desc bool) ([]store.EpochRef, error) {
	order, op := "ASC", ">="
	if desc {
		order, op = "DESC", "<="
	}
	return s.epochs("WHERE e.agent_id = ? AND (e.ordinal, e.eid) "+op+" (?, ?) ORDER BY e.ordinal "+order+", e.eid "+order, agent, int64(from.Ordinal), from.ID[:])
}

func (s source) Newest(limit int, allow func(agent string) bool) ([]store.EpochRef, error) {
	list, err := s.epochs("WHERE e.last_received > 0 ORDER BY e.last_received DESC LIMIT ?", store.Look(limit, allow))
	if err != nil {
		return nil, err
	}
	list = store.Allowed(list, limit, allow)
	for i := range list {
		r, err := s.Bounds(list[i], telemetry.Range{First: 1, Last: ledger.MaxSeq})
		if err != nil {
			return nil, err
		}
		list[i].Top = r.Last
	}
	return slices.DeleteFunc(list, func(e store.EpochRef) bool { return e.Top == 0 }), nil
}

func (s source) epochs(where string, args ...any) ([]store.EpochRef, error) {
	rows, err := s.tx.QueryContext(s.ctx, "SELECT e.id, e.ordinal, e.eid, a.id, a.name, e.last_received FROM epochs e JOIN agents a ON a.id = e.agent_id "+where, args...)
	if err != nil {
		return nil, failed("list epochs", err)
	}
	list, err := collect(rows, func() (e store.EpochRef, err error) {
		var id []byte
		err = rows.Scan(&e.ID, &e.Epoch.Ordinal, &id, &e.AgentID, &e.Agent, &e.Last)
		copy(e.Epoch.ID[:], id)
		return e, err
	})
	return list, failed("list epochs", err)
}

func (s source) TopicIDs(agent int64, filter string) ([]store.Topic, error) {
	query, args := "SELECT id, name FROM topics WHERE agent_id = ?", []any{agent}
	if !strings.ContainsAny(filter, "+#") {
		query, args = query+" AND name = ?", append(args, filter)
	}
	rows, err := s.tx.QueryContext(s.ctx, query, args...)
	if err != nil {
		return nil, failed("list topics", err)
	}
	list, err := collect(rows, func() (t store.Topic, err error) {
		err = rows.Scan(&t.ID, &t.Name)
		return t, err
	})
	return list, failed("list topics", err)
}

// key is the primary key of a reading.
func key(epoch int64, seq uint64) int64 { return epoch<<seqBits | int64(seq) }

func (s source) Bounds(e store.EpochRef, r telemetry.Range) (telemetry.Range, error) {
	var first, last sql.NullInt64
	err := s.tx.QueryRowContext(s.ctx, "SELECT (SELECT min(id) FROM readings WHERE id BETWEEN ?1 AND ?2), (SELECT max(id) FROM readings WHERE id BETWEEN ?1 AND ?2)",
		key(e.ID, r.First), key(e.ID, r.Last)).Scan(&first, &last)
	if err != nil || !first.Valid {
		return telemetry.Range{}, failed("look for readings", err)
	}
	return telemetry.Range{First: uint64(first.Int64) & ledger.MaxSeq, Last: uint64(last.Int64) & ledger.MaxSeq}, nil
}

func (s source) Rows(e store.EpochRef, r telemetry.Range, topics []int64, q *store.Query, room *store.Room) ([]store.Reading, error) {
	var b strings.Builder
	args := []any{key(e.ID, r.First), key(e.ID, r.Last)}
	b.WriteString("SELECT r.id, t.name, r.flags, r.recorded, r.corrected, r.received, r.payload FROM readings r JOIN topics t ON t.id = r.topic_id WHERE r.id BETWEEN ? AND ?")
	if topics != nil {
		ids, err := json.Marshal(topics)
		if err != nil {
			return nil, err
		}
		b.WriteString(" AND +r.topic_id IN (SELECT value FROM json_each(?))") // the + keeps SQLite on the key's order
		args = append(args, string(ids))
	}
	if q.From != 0 {
		b.WriteString(" AND +r.corrected >= ?")
		args = append(args, q.From)
	}
	if q.To != 0 {
		b.WriteString(" AND +r.corrected < ?")
		args = append(args, q.To)
	}
	b.WriteString(" ORDER BY r.id")
	if q.Desc {
		b.WriteString(" DESC")
	}
	rows, err := s.tx.QueryContext(s.ctx, b.String()+" LIMIT ?", append(args, room.Rows)...)
	if err != nil {
		return nil, failed("read readings", err)
	}
	defer rows.Close()
	var out []store.Reading
	for more := true; more && rows.Next(); {
		rd, err := scanReading(rows, e)
		if err != nil {
			return nil, failed("read readings", err)
		}
		out, more = append(out, rd), room.Take(&rd)
	}
	return out, failed("read readings", rows.Err())
}

func scanReading(rows *sql.Rows, e store.EpochRef) (store.Reading, error) {
	r := store.Reading{Agent: e.Agent, Epoch: e.Epoch}
	var id, flags int64
	err := rows.Scan(&id, &r.Topic, &flags, &r.Recorded, &r.Corrected, &r.Received, &r.Payload)
	r.Seq = uint64(id) & ledger.MaxSeq
	r.SetFlags(flags)
	return r, err
}
