package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/ledger"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

const (
	// scanBudget is how many seqs one call looks at: about half a second. What
	// is beyond it is found by the next page.
	scanBudget = 1_000_000
	// scanStep is how many of them one statement looks at.
	scanStep = 50_000
	// latestEpochs is how many epochs are asked for the newest readings of all
	// agents: with one live epoch an agent, so many agents.
	latestEpochs = 50
)

// scan is one call of Readings.
type scan struct {
	ctx    context.Context
	tx     *sql.Tx
	q      store.Query
	page   store.Page
	budget int64
	topics string // JSON list of topic ids of the agent at hand; empty: all
}

// Readings implements store.Store.
func (s *Store) Readings(ctx context.Context, q store.Query) (store.Page, error) {
	cur, epoch, err := store.Cursor{}, telemetry.Epoch{}, error(nil)
	if q.Cursor != "" {
		if cur, epoch, err = store.ParseCursor(q.Cursor); err != nil {
			return store.Page{}, err
		}
	}
	sc := scan{ctx: ctx, q: q, budget: scanBudget}
	err = s.view(ctx, func(tx *sql.Tx) error {
		sc.tx = tx
		if q.Desc && q.Agent == "" {
			return sc.latest()
		}
		return sc.agents(cur, epoch)
	})
	if err != nil {
		return store.Page{}, err
	}
	return sc.page, nil
}

// agents walks the agents in the order of their names, from the cursor on.
func (s *scan) agents(cur store.Cursor, epoch telemetry.Epoch) error {
	after, first := cur.Agent, cur.Agent != ""
	if s.q.Agent != "" {
		id, err := agentID(s.ctx, s.tx, s.q.Agent)
		if err != nil {
			return err
		}
		_, err = s.agent(id, s.q.Agent, cur, epoch)
		return err
	}
	for {
		var id int64
		var name string
		op := ">"
		if first {
			op, first = ">=", false
		}
		err := s.tx.QueryRowContext(s.ctx, "SELECT id, name FROM agents WHERE name "+op+" ? ORDER BY name LIMIT 1", after).Scan(&id, &name)
		if err == sql.ErrNoRows { //nolint:errorlint // as documented, never wrapped
			return nil
		}
		if err != nil {
			return unavailable(fmt.Errorf("list agents: %w", err))
		}
		if s.q.Allow == nil || s.q.Allow(name) {
			c, e := store.Cursor{}, telemetry.Epoch{}
			if name == cur.Agent {
				c, e = cur, epoch
			}
			if full, err := s.agent(id, name, c, e); full || err != nil {
				return err
			}
		}
		after = name
	}
}

// agent walks the epochs of one agent; full means that the page is.
func (s *scan) agent(id int64, name string, cur store.Cursor, from telemetry.Epoch) (full bool, err error) {
	if none, err := s.filter(id); none || err != nil {
		return false, err
	}
	order, op := "ASC", ">="
	if s.q.Desc {
		order, op = "DESC", "<="
		if from.IsZero() {
			from.Ordinal = 1<<63 - 1
		}
	}
	rows, err := s.tx.QueryContext(s.ctx, "SELECT id, ordinal, eid FROM epochs WHERE agent_id = ? AND (ordinal, eid) "+op+" (?, ?) ORDER BY ordinal "+order+", eid "+order,
		id, int64(from.Ordinal), from.ID[:])
	if err != nil {
		return false, unavailable(fmt.Errorf("list epochs: %w", err))
	}
	epochs, err := collect(rows, func() (e epochRow, err error) { return scanEpochRow(rows) })
	if err != nil {
		return false, unavailable(fmt.Errorf("list epochs: %w", err))
	}
	for _, e := range epochs {
		e.agent = name
		seq := uint64(0)
		if cur.Epoch != "" && e.epoch == from {
			seq = cur.Seq
		}
		if full, err := s.epoch(e, seq); full || err != nil {
			return full, err
		}
	}
	return false, nil
}

type epochRow struct {
	id    int64
	epoch telemetry.Epoch
	agent string
}

func scanEpochRow(rows *sql.Rows) (e epochRow, err error) {
	var id []byte
	var ordinal int64
	err = rows.Scan(&e.id, &ordinal, &id)
	e.epoch.Ordinal = uint64(ordinal)
	copy(e.epoch.ID[:], id)
	return e, err
}

// filter finds the topics of the agent that the query's filter matches.
func (s *scan) filter(agent int64) (none bool, err error) {
	if s.q.Topic == "" || s.q.Topic == "#" {
		return false, nil
	}
	query, args := "SELECT id, name FROM topics WHERE agent_id = ?", []any{agent}
	if !strings.ContainsAny(s.q.Topic, "+#") {
		query, args = query+" AND name = ?", append(args, s.q.Topic)
	}
	rows, err := s.tx.QueryContext(s.ctx, query, args...)
	if err != nil {
		return false, unavailable(fmt.Errorf("list topics: %w", err))
	}
	topics, err := collect(rows, func() (t store.Topic, err error) { err = rows.Scan(&t.ID, &t.Name); return t, err })
	if err != nil {
		return false, unavailable(fmt.Errorf("list topics: %w", err))
	}
	ids := []int64{}
	for _, t := range topics {
		if store.MatchTopic(s.q.Topic, t.Name) {
			ids = append(ids, t.ID)
		}
	}
	b, err := json.Marshal(ids)
	s.topics = string(b)
	return len(ids) == 0, err
}

// epoch reads the readings of one epoch after seq (before it when descending;
// 0: from the end) until the page is full or the budget is spent.
func (s *scan) epoch(e epochRow, seq uint64) (full bool, err error) {
	base := e.id << seqBits
	lo, hi := base+int64(seq)+1, base+ledger.MaxSeq
	if s.q.Desc {
		lo = base
		if seq > 0 {
			hi = base + int64(seq) - 1
		}
	}
	var first, last sql.NullInt64
	err = s.tx.QueryRowContext(s.ctx, "SELECT (SELECT min(id) FROM readings WHERE id BETWEEN ?1 AND ?2), (SELECT max(id) FROM readings WHERE id BETWEEN ?1 AND ?2)", lo, hi).Scan(&first, &last)
	if err != nil {
		return false, unavailable(fmt.Errorf("read readings: %w", err))
	}
	if !first.Valid {
		return false, nil
	}
	lo, hi = first.Int64, last.Int64
	for lo <= hi {
		from, to := lo, min(hi, lo+scanStep-1)
		if s.q.Desc {
			from, to = max(lo, hi-scanStep+1), hi
		}
		if full, err := s.step(e, from, to); full || err != nil {
			return full, err
		}
		lo = to + 1
		if s.q.Desc {
			lo, hi = first.Int64, from-1
		}
		if s.budget -= scanStep; s.budget <= 0 && lo <= hi {
			at := to
			if s.q.Desc {
				at = from
			}
			s.next(e, uint64(at-base))
			return true, nil
		}
	}
	return false, nil
}

func (s *scan) next(e epochRow, seq uint64) {
	s.page.Next = store.Cursor{Agent: e.agent, Epoch: e.epoch.String(), Seq: seq}.String()
}

// step reads the rows with keys from..to.
func (s *scan) step(e epochRow, from, to int64) (full bool, err error) {
	got, err := s.rows(e, from, to, s.q.Limit-len(s.page.Readings)+1)
	if err != nil {
		return false, err
	}
	s.page.Readings = append(s.page.Readings, got...)
	if len(s.page.Readings) <= s.q.Limit {
		return false, nil
	}
	s.page.Readings = s.page.Readings[:s.q.Limit]
	s.next(e, s.page.Readings[s.q.Limit-1].Seq)
	if l := s.page.Readings[s.q.Limit-1]; l.Epoch != e.epoch {
		s.page.Next = store.Cursor{Agent: l.Agent, Epoch: l.Epoch.String(), Seq: l.Seq}.String()
	}
	return true, nil
}

func (s *scan) rows(e epochRow, from, to int64, limit int) ([]store.Reading, error) {
	var b strings.Builder
	args := []any{from, to}
	b.WriteString(`SELECT r.id, t.name, r.flags, r.recorded, r.corrected, r.received, r.payload FROM readings r JOIN topics t ON t.id = r.topic_id WHERE r.id BETWEEN ? AND ?`)
	if s.topics != "" {
		b.WriteString(" AND +r.topic_id IN (SELECT value FROM json_each(?))") // the + keeps SQLite on the key's order
		args = append(args, s.topics)
	}
	if s.q.From != 0 {
		b.WriteString(" AND r.corrected >= ?")
		args = append(args, s.q.From)
	}
	if s.q.To != 0 {
		b.WriteString(" AND r.corrected < ?")
		args = append(args, s.q.To)
	}
	b.WriteString(" ORDER BY r.id")
	if s.q.Desc {
		b.WriteString(" DESC")
	}
	b.WriteString(" LIMIT ?")
	rows, err := s.tx.QueryContext(s.ctx, b.String(), append(args, limit)...)
	if err != nil {
		return nil, unavailable(fmt.Errorf("read readings: %w", err))
	}
	out, err := collect(rows, func() (store.Reading, error) { return scanReading(rows, e) })
	if err != nil {
		return nil, unavailable(fmt.Errorf("read readings: %w", err))
	}
	return out, nil
}

func scanReading(rows *sql.Rows, e epochRow) (store.Reading, error) {
	r := store.Reading{Agent: e.agent, Epoch: e.epoch}
	var id, flags int64
	err := rows.Scan(&id, &r.Topic, &flags, &r.Recorded, &r.Corrected, &r.Received, &r.Payload)
	r.Seq = uint64(id) & ledger.MaxSeq
	r.QoS, r.Dup, r.Retained = uint8(flags&3), flags&flagDup != 0, flags&flagRetained != 0
	return r, err
}

// latest returns the readings received last, over all agents: without a cursor,
// for a page that shows what is coming in.
func (s *scan) latest() error {
	rows, err := s.tx.QueryContext(s.ctx, "SELECT e.id, e.ordinal, e.eid, a.name, a.id FROM epochs e JOIN agents a ON a.id = e.agent_id ORDER BY e.received_at DESC LIMIT ?", latestEpochs)
	if err != nil {
		return unavailable(fmt.Errorf("list epochs: %w", err))
	}
	var agents []int64
	epochs, err := collect(rows, func() (e epochRow, err error) {
		var id []byte
		var agent int64
		err = rows.Scan(&e.id, &e.epoch.Ordinal, &id, &e.agent, &agent)
		copy(e.epoch.ID[:], id)
		agents = append(agents, agent)
		return e, err
	})
	if err != nil {
		return unavailable(fmt.Errorf("list epochs: %w", err))
	}
	var all []store.Reading
	for i, e := range epochs {
		if s.q.Allow != nil && !s.q.Allow(e.agent) {
			continue
		}
		if none, err := s.filter(agents[i]); err != nil {
			return err
		} else if none {
			continue
		}
		top, err := s.top(e)
		if err != nil {
			return err
		}
		all = append(all, top...)
	}
	slices.SortStableFunc(all, func(a, b store.Reading) int { return cmp.Compare(b.Received, a.Received) })
	s.page.Readings = all[:min(len(all), s.q.Limit)]
	return nil
}

// top returns the newest readings of one epoch that a statement finds.
func (s *scan) top(e epochRow) ([]store.Reading, error) {
	base := e.id << seqBits
	var last sql.NullInt64
	if err := s.tx.QueryRowContext(s.ctx, "SELECT max(id) FROM readings WHERE id BETWEEN ? AND ?", base, base+ledger.MaxSeq).Scan(&last); err != nil {
		return nil, unavailable(fmt.Errorf("read readings: %w", err))
	}
	if !last.Valid {
		return nil, nil
	}
	return s.rows(e, max(base, last.Int64-scanStep+1), last.Int64, s.q.Limit)
}
