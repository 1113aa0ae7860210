package postgres

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

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

func (s source) Newest(limit int) ([]store.EpochRef, error) {
	return s.epochs("WHERE e.last_received > 0 ORDER BY e.received_at DESC LIMIT $1", limit)
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

func (s source) Rows(e store.EpochRef, r telemetry.Range, topics []int64, q *store.Query, limit int) ([]store.Reading, error) {
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
	args = append(args, limit)
	fmt.Fprintf(&b, " LIMIT $%d", len(args))
	out, err := list(s.ctx, s.tx, func(scan func(...any) error) (store.Reading, error) {
		rd := store.Reading{Agent: e.Agent, Epoch: e.Epoch}
		var flags int64
		err := scan(&rd.Seq, &rd.Topic, &flags, &rd.Recorded, &rd.Corrected, &rd.Received, &rd.Payload)
		rd.SetFlags(flags)
		return rd, err
	}, b.String(), args...)
	return out, failed("read readings", err)
}
