package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/clock"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/ledger"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// querier is a transaction, or a connection that is in one.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// commit is a transaction that stores frames of one agent, in their order. Each
// round trip to the server does as much as it can: BEGIN goes with the lock and
// COMMIT with the last writes.
type commit struct {
	*Store
	ctx     context.Context
	db      querier
	begin   bool // load begins the transaction and save ends it
	agent   *store.Agent
	ids     map[telemetry.Epoch]int64
	ledgers map[telemetry.Epoch]*ledger.Epoch
	merges  []*store.Merge
	times   map[telemetry.Epoch]*clock.Timeline
	fresh   map[topicKey]int64 // topics made or read here; known to others after the commit
	out     pgx.Batch          // what save sends
}

// commitAll stores frames of one agent in one transaction.
func (s *Store) commitAll(ctx context.Context, frames []*store.Frame, need []telemetry.Epoch) ([]store.Result, error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil, failed("begin", err)
	}
	defer conn.Release() // throws away one whose transaction did not end
	c := commit{Store: s, ctx: ctx, db: conn.Conn(), begin: true, fresh: map[topicKey]int64{}}
	if err := c.run(conn.Conn(), frames, need); err != nil {
		undo(conn.Conn())
		return nil, err
	}
	s.remember(c.fresh)
	out := make([]store.Result, len(frames))
	for i, m := range c.merges {
		out[i] = m.Result()
	}
	return out, nil
}

// undo ends a transaction whose context may have ended already.
func undo(c *pgx.Conn) {
	if c.IsClosed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, _ = c.Exec(ctx, "rollback") // the connection is thrown away when this fails
}

func (c *commit) run(conn *pgx.Conn, frames []*store.Frame, need []telemetry.Epoch) error {
	if err := c.load(frames[0].Agent, need); err != nil {
		return err
	}
	if !c.agent.RevokedAt.IsZero() {
		return fmt.Errorf("agent %s: %w", c.agent.Name, store.ErrRevoked)
	}
	var fresh bool
	for _, f := range frames {
		m := &store.Merge{Frame: f, Agent: c.agent, Ledgers: c.ledgers}
		if err := c.rivals(m); err != nil {
			return err
		}
		m.Apply()
		c.merges = append(c.merges, m)
		fresh = fresh || len(m.Fresh) > 0
	}
	if fresh {
		if err := c.insert(conn); err != nil {
			return err
		}
	}
	return c.save()
}

// load locks the agent's row, under which all of its ledgers change, and reads
// the ledgers that the frames touch.
func (c *commit) load(agent string, need []telemetry.Epoch) error {
	ordinals, ids := columns(need)
	var b pgx.Batch
	if c.begin {
		b.Queue("begin")
	}
	b.Queue("SELECT "+agentColumns+" FROM agents WHERE name = $1 FOR UPDATE", agent)
	b.Queue(`SELECT e.id, e.ordinal, e.eid, e.ledger FROM agents a JOIN epochs e ON e.agent_id = a.id
		JOIN unnest($2::bigint[], $3::bytea[]) AS n(ordinal, eid) ON e.ordinal = n.ordinal AND e.eid = n.eid WHERE a.name = $1`, agent, ordinals, ids)
	r := c.db.SendBatch(c.ctx, &b)
	err := c.read(r, agent, len(need))
	if closed := r.Close(); err == nil && closed != nil {
		err = failed("read ledgers", closed)
	}
	if err != nil {
		return err
	}
	return c.missing(need)
}

func (c *commit) read(r pgx.BatchResults, agent string, epochs int) error {
	if c.begin {
		if _, err := r.Exec(); err != nil {
			return failed("begin", err)
		}
	}
	a, err := scanAgent(r.QueryRow().Scan)
	if err != nil {
		return agentError(agent, err)
	}
	c.agent = &a
	c.ids, c.ledgers = make(map[telemetry.Epoch]int64, epochs), make(map[telemetry.Epoch]*ledger.Epoch, epochs)
	rows, err := r.Query()
	if err == nil {
		err = c.decode(rows)
	}
	return failed("read ledgers", err)
}

func columns(need []telemetry.Epoch) (ordinals []int64, ids [][]byte) {
	for i := range need {
		ordinals, ids = append(ordinals, int64(need[i].Ordinal)), append(ids, need[i].ID[:])
	}
	return ordinals, ids
}

func agentError(name string, err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("agent %s: %w", name, store.ErrNotFound)
	}
	return failed("read agent", err)
}

func (c *commit) decode(rows pgx.Rows) error {
	defer rows.Close()
	for rows.Next() {
		var id int64
		var e telemetry.Epoch
		var eid, b []byte
		if err := rows.Scan(&id, &e.Ordinal, &eid, &b); err != nil {
			return err
		}
		copy(e.ID[:], eid)
		l, err := ledger.Decode(b)
		if err != nil {
			return fmt.Errorf("ledger of epoch %s: %w", e, err)
		}
		c.ids[e], c.ledgers[e] = id, l
	}
	return rows.Err()
}

// missing makes the rows of epochs heard of for the first time.
func (c *commit) missing(need []telemetry.Epoch) error {
	var lack []telemetry.Epoch
	for _, e := range need {
		if _, ok := c.ids[e]; !ok {
			lack = append(lack, e)
		}
	}
	if len(lack) == 0 {
		return nil
	}
	ordinals, ids := columns(lack)
	rows, err := c.db.Query(c.ctx, `INSERT INTO epochs (agent_id, ordinal, eid) SELECT $1, n.ordinal, n.eid FROM unnest($2::bigint[], $3::bytea[]) AS n(ordinal, eid)
		RETURNING id, ordinal, eid, ledger`, c.agent.ID, ordinals, ids)
	if err == nil {
		err = c.decode(rows)
	}
	return failed("make ledgers", err)
}

// rivals asks how many other epochs have the ordinal of one that begins.
func (c *commit) rivals(m *store.Merge) error {
	if !store.Begins(m.Frame) {
		return nil
	}
	e := m.Frame.Epoch
	err := c.db.QueryRow(c.ctx, "SELECT count(*) FROM epochs WHERE agent_id = $1 AND ordinal = $2 AND id <> $3", c.agent.ID, int64(e.Ordinal), c.ids[e]).Scan(&m.Rivals)
	return failed("look for rivals", err)
}

// span is when an epoch was heard of, and got readings, by some frames.
type span struct{ heard, first, last int64 }

// spans returns the epochs that changed.
func (c *commit) spans() map[telemetry.Epoch]*span {
	out := map[telemetry.Epoch]*span{}
	for _, m := range c.merges {
		at := m.Frame.Received.UnixNano()
		for e := range m.Changed {
			s := out[e]
			if s == nil {
				s = &span{}
				out[e] = s
			}
			s.heard = max(s.heard, at)
			if e == m.Frame.Epoch && len(m.Fresh) > 0 {
				s.last = max(s.last, at)
				if s.first == 0 || at < s.first {
					s.first = at
				}
			}
		}
	}
	return out
}

// save writes back the agent, the ledgers that changed, alarms and quarantine,
// and commits.
func (c *commit) save() error {
	b, a := &c.out, c.agent
	for e, s := range c.spans() {
		l := c.ledgers[e]
		b.Queue(`UPDATE epochs SET ledger = $2, missing = $3, on_device = $4, watermark = $5, received_at = $6, last_received = greatest(last_received, $8),
			first_received = CASE WHEN $7::bigint = 0 THEN first_received WHEN first_received = 0 THEN $7 ELSE least(first_received, $7) END WHERE id = $1`,
			c.ids[e], l.Encode(), int64(l.Missing().Count()), int64(l.OnDevice().Count()), int64(l.Watermark()), s.heard, s.first, s.last)
	}
	b.Queue(`UPDATE agents SET first_seen = $2, last_seen = $3, revision = $4, held = $5, expired = $6, quarantined = $7, lost = $8, on_device = $9, missing = $10,
		readings = $11, redelivered = $12, open_epochs = $13, lead = $14, lead_mark = $15, lead_turns = $16, sampled_at = $17 WHERE id = $1`,
		a.ID, nanos(a.FirstSeen), nanos(a.LastSeen), int64(a.Revision), int64(a.Held), int64(a.Expired), int64(a.Quarantined), int64(a.Lost), int64(a.OnDevice),
		int64(a.Missing), int64(a.Readings), int64(a.Redelivered), int64(a.OpenEpochs), epochText(a.Lead), int64(a.LeadMark), int64(a.LeadTurns), nanos(a.Sampled))
	for _, m := range c.merges {
		queueOthers(b, m, c.ids[m.Frame.Epoch])
		c.queueNotes(b, m)
	}
	if c.begin {
		b.Queue("commit")
	}
	return failed("write ledgers", c.db.SendBatch(c.ctx, b).Close())
}

// queueNotes queues what a frame leaves beside readings and ledgers: a sample of
// the backlog, alarms, itself.
func (c *commit) queueNotes(b *pgx.Batch, m *store.Merge) {
	f, received := m.Frame, m.Frame.Received.UnixNano()
	if m.Sample {
		b.Queue("INSERT INTO backlog (agent_id, at, on_device, held) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING", c.agent.ID, received, int64(c.agent.OnDevice), int64(c.agent.Held))
	}
	for _, l := range m.Alarms {
		b.Queue(`INSERT INTO alarms AS old (agent_id, kind, epoch, detail, first, last, count) VALUES ($1, $2, $3, $4, $5, $6, 1)
			ON CONFLICT (agent_id, kind, epoch) DO UPDATE SET detail = excluded.detail, last = excluded.last, count = old.count + 1`,
			c.agent.ID, l.Kind, l.Epoch.String(), l.Detail, l.First.UnixNano(), l.Last.UnixNano())
	}
	if m.Keep {
		b.Queue("INSERT INTO quarantine (agent, trusted, epoch, first, last, why, size, received, raw) VALUES ($1, true, $2, $3, $4, $5, $6, $7, $8)",
			f.Agent, f.Epoch.String(), int64(f.First), int64(f.Last), clean(f.Why), len(f.Raw), received, f.Raw)
	}
}
