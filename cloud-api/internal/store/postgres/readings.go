package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Readings implements store.Store.
func (s *Store) Readings(ctx context.Context, q store.Query) (page store.Page, err error) {
	err = s.view(ctx, func(tx pgx.Tx) error {
		page, err = store.Scan(q, source{ctx, tx})
		return err
	})
	return page, err
}

// slack is how much later than it was received a reading may seem to be
// recorded: by so much the clocks of device and cloud may differ.
const slack = int64(24 * time.Hour)

// Values implements store.Store. No reading is received long before it was
// recorded, so older partitions are not looked into.
func (s *Store) Values(ctx context.Context, agent, topic string, from, to int64, f func(at int64, payload []byte) error) error {
	sum := sha256.Sum256([]byte(topic))
	return s.view(ctx, func(tx pgx.Tx) error {
		id, err := agentID(ctx, tx, agent)
		if err != nil {
			return err
		}
		var number int64
		err = tx.QueryRow(ctx, "SELECT id FROM topics WHERE agent_id = $1 AND hash = $2", id, sum[:]).Scan(&number)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return failed("find topic", err)
		}
		rows, err := tx.Query(ctx, "SELECT corrected, payload FROM readings WHERE topic_id = $1 AND corrected >= $2 AND corrected < $3 AND received >= $4 ORDER BY corrected",
			number, from, to, from-slack)
		if err != nil {
			return failed("read values", err)
		}
		defer rows.Close()
		for rows.Next() {
			raw := rows.RawValues()
			if err := f(int64(binary.BigEndian.Uint64(raw[0])), raw[1]); err != nil {
				return err
			}
		}
		return failed("read values", rows.Err())
	})
}

// Newest implements store.Store.
func (s *Store) Newest(ctx context.Context, limit int) (out []store.EpochRef, err error) {
	err = s.view(ctx, func(tx pgx.Tx) error {
		out, err = source{ctx, tx}.Newest(limit, nil)
		return err
	})
	return out, err
}

// source is a store.Source within one snapshot.
type source struct {
	ctx context.Context
	tx  pgx.Tx
}

func (s source) AgentID(name string) (int64, error) { return agentID(s.ctx, s.tx, name) }

func (s source) NextAgent(name string, from bool) (id int64, next string, err error) {
	op := ">"
	if from {
		op = ">="
	}
	err = s.tx.QueryRow(s.ctx, "SELECT id, name FROM agents WHERE name "+op+" $1 ORDER BY name LIMIT 1", name).Scan(&id, &next)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, "", nil
	}
	return id, next, failed("list agents", err)
}

func (s source) EpochsFrom(agent int64, from telemetry.Epoch, desc bool) ([]store.EpochRef, error) {
	order, op := "ASC", ">="
	if desc {
		order, op = "DESC", "<="
	}
	return s.epochs("WHERE e.agent_id = $1 AND e.last_received > 0 AND (e.ordinal, e.eid) "+op+" ($2, $3) ORDER BY e.ordinal "+order+", e.eid "+order, agent, int64(from.Ordinal), from.ID[:])
}

func (s source) Newest(limit int, allow func(agent string) bool) ([]store.EpochRef, error) {
	list, err := s.epochs("WHERE e.last_received > 0 ORDER BY e.last_received DESC LIMIT $1", store.Look(limit, allow))
	if err != nil {
		return nil, err
	}
	list = store.Allowed(list, limit, allow)
	for i := range list {
		e := &list[i]
		err := s.tx.QueryRow(s.ctx, "SELECT coalesce(max(seq), 0) FROM readings WHERE epoch_id = $1 AND received BETWEEN $2 AND $3", e.ID, e.First, e.Last).Scan(&e.Top)
		if err != nil {
			return nil, failed("look for readings", err)
		}
	}
	return slices.DeleteFunc(list, func(e store.EpochRef) bool { return e.Top == 0 }), nil
}

func (s source) epochs(where string, args ...any) ([]store.EpochRef, error) {
	out, err := list(s.ctx, s.tx, func(scan func(...any) error) (e store.EpochRef, err error) {
		var id []byte
		err = scan(&e.ID, &e.Epoch.Ordinal, &id, &e.AgentID, &e.Agent, &e.First, &e.Last)
		copy(e.Epoch.ID[:], id)
		return e, err
	}, "SELECT e.id, e.ordinal, e.eid, a.id, a.name, e.first_received, e.last_received FROM epochs e JOIN agents a ON a.id = e.agent_id "+where, args...)
	return out, failed("list epochs", err)
}

func (s source) TopicIDs(agent int64, filter string) ([]store.Topic, error) {
	query, args := "SELECT id, name FROM topics WHERE agent_id = $1", []any{agent}
	if !strings.ContainsAny(filter, "+#") {
		sum := sha256.Sum256([]byte(filter))
		query, args = query+" AND hash = $2", append(args, sum[:])
	}
	out, err := list(s.ctx, s.tx, func(scan func(...any) error) (t store.Topic, err error) {
		err = scan(&t.ID, &t.Name)
		return t, err
	}, query, args...)
	return out, failed("list topics", err)
}

// Bounds and Rows name the received times of the epoch, so that PostgreSQL looks
// only into the partitions that can have its readings.

func (s source) Bounds(e store.EpochRef, r telemetry.Range) (telemetry.Range, error) {
	var first, last int64
	err := s.tx.QueryRow(s.ctx, `SELECT coalesce(min(seq), 0), coalesce(max(seq), 0) FROM readings
		WHERE epoch_id = $1 AND seq BETWEEN $2 AND $3 AND received BETWEEN $4 AND $5`, e.ID, int64(r.First), int64(r.Last), e.First, e.Last).Scan(&first, &last)
	return telemetry.Range{First: uint64(first), Last: uint64(last)}, failed("look for readings", err)
}

func (s source) Rows(e store.EpochRef, r telemetry.Range, topics []int64, q *store.Query, room *store.Room) ([]store.Reading, error) {
	args := []any{e.ID, int64(r.First), int64(r.Last), e.First, e.Last}
	var b strings.Builder
	b.WriteString(`SELECT r.seq, t.name, r.flags, r.recorded, r.corrected, r.received, r.payload FROM readings r JOIN topics t ON t.id = r.topic_id
		WHERE r.epoch_id = $1 AND r.seq BETWEEN $2 AND $3 AND r.received BETWEEN $4 AND $5`)
	and := func(condition string, arg any) {
		args = append(args, arg)
		fmt.Fprintf(&b, " AND "+condition, len(args))
	}
	if topics != nil {
		and("r.topic_id = ANY ($%d)", topics)
	}
	if q.From != 0 {
		and("r.corrected >= $%d", q.From)
	}
	if q.To != 0 {
		and("r.corrected < $%d", q.To)
	}
	b.WriteString(" ORDER BY r.seq")
	if q.Desc {
		b.WriteString(" DESC")
	}
	args = append(args, room.Rows)
	fmt.Fprintf(&b, " LIMIT $%d", len(args))
	rows, err := s.tx.Query(s.ctx, b.String(), args...)
	if err != nil {
		return nil, failed("read readings", err)
	}
	defer rows.Close()
	var out []store.Reading
	for more := true; more && rows.Next(); {
		rd := store.Reading{Agent: e.Agent, Epoch: e.Epoch}
		var flags int64
		if err := rows.Scan(&rd.Seq, &rd.Topic, &flags, &rd.Recorded, &rd.Corrected, &rd.Received, &rd.Payload); err != nil {
			return nil, failed("read readings", err)
		}
		rd.SetFlags(flags)
		out, more = append(out, rd), room.Take(&rd)
	}
	return out, failed("read readings", rows.Err())
}
