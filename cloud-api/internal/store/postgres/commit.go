package postgres

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/clock"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/ledger"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Commit implements store.Store.
func (s *Store) Commit(ctx context.Context, f store.Frame) (store.Result, error) {
	need, err := store.Needs(&f)
	if err != nil {
		return store.Result{}, err
	}
	c := commit{Store: s, ctx: ctx, fresh: map[topicKey]int64{}}
	err = s.write(ctx, func(tx pgx.Tx) error {
		c.tx = tx
		return c.run(&f, need)
	})
	if err != nil {
		return store.Result{}, err
	}
	s.remember(c.fresh)
	return c.m.Result(), nil
}

// commit is one frame within its transaction.
type commit struct {
	*Store
	ctx   context.Context
	tx    pgx.Tx
	m     store.Merge
	ids   map[telemetry.Epoch]int64
	fresh map[topicKey]int64 // topics made or read here; known to others after the commit
}

func (c *commit) run(f *store.Frame, need []telemetry.Epoch) error {
	if err := c.load(f, need); err != nil {
		return err
	}
	if !c.m.Agent.RevokedAt.IsZero() {
		return fmt.Errorf("agent %s: %w", f.Agent, store.ErrRevoked)
	}
	c.m.Apply()
	if len(c.m.Fresh) > 0 {
		if err := c.insert(c.ids[f.Epoch]); err != nil {
			return err
		}
	}
	return c.save()
}

// load locks the agent's row, under which all of its ledgers change, and reads
// the ledgers that the frame touches.
func (c *commit) load(f *store.Frame, need []telemetry.Epoch) error {
	ordinals, ids := columns(need)
	var b pgx.Batch
	b.Queue("SELECT "+agentColumns+" FROM agents WHERE name = $1 FOR UPDATE", f.Agent)
	b.Queue(`SELECT e.id, e.ordinal, e.eid, e.ledger FROM agents a JOIN epochs e ON e.agent_id = a.id
		JOIN unnest($2::bigint[], $3::bytea[]) AS n(ordinal, eid) ON e.ordinal = n.ordinal AND e.eid = n.eid WHERE a.name = $1`, f.Agent, ordinals, ids)
	r := c.tx.SendBatch(c.ctx, &b)
	a, err := scanAgent(r.QueryRow().Scan)
	if err != nil {
		_ = r.Close() // the error above is the one to tell
		return agentError(f.Agent, err)
	}
	c.m = store.Merge{Frame: f, Agent: &a, Ledgers: make(map[telemetry.Epoch]*ledger.Epoch, len(need))}
	c.ids = make(map[telemetry.Epoch]int64, len(need))
	rows, err := r.Query()
	if err == nil {
		err = c.ledgers(rows)
	}
	if err = errors.Join(err, r.Close()); err != nil {
		return failed("read ledgers", err)
	}
	return c.missing(need)
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

func (c *commit) ledgers(rows pgx.Rows) error {
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
		c.ids[e], c.m.Ledgers[e] = id, l
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
	if len(lack) > 0 {
		ordinals, ids := columns(lack)
		rows, err := c.tx.Query(c.ctx, `INSERT INTO epochs (agent_id, ordinal, eid) SELECT $1, n.ordinal, n.eid FROM unnest($2::bigint[], $3::bytea[]) AS n(ordinal, eid)
			RETURNING id, ordinal, eid, ledger`, c.m.Agent.ID, ordinals, ids)
		if err == nil {
			err = c.ledgers(rows)
		}
		if err != nil {
			return failed("make ledgers", err)
		}
	}
	if !store.Begins(c.m.Frame) {
		return nil
	}
	e := c.m.Frame.Epoch
	err := c.tx.QueryRow(c.ctx, "SELECT count(*) FROM epochs WHERE agent_id = $1 AND ordinal = $2 AND id <> $3", c.m.Agent.ID, int64(e.Ordinal), c.ids[e]).Scan(&c.m.Rivals)
	return failed("look for rivals", err)
}

// insert writes the frame's fresh records.
func (c *commit) insert(epoch int64) error {
	times, err := c.times(epoch)
	if err != nil {
		return failed("work in anchors", err)
	}
	if err := c.learnTopics(); err != nil {
		return failed("write topics", err)
	}
	rows, b := c.encode(epoch, times)
	if rows > 0 {
		_, err := c.tx.Conn().PgConn().CopyFrom(c.ctx, bytes.NewReader(b),
			"COPY readings (epoch_id, seq, topic_id, flags, boot, recorded, corrected, received, payload) FROM STDIN BINARY")
		if err != nil {
			return failed("copy readings", err)
		}
	}
	return c.insertOthers(epoch)
}

// encode writes the fresh readings in COPY's binary format.
func (c *commit) encode(epoch int64, times *clock.Timeline) (rows int, b []byte) {
	received := c.m.Frame.Received.UnixNano()
	b = append(make([]byte, 0, 1<<16), "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"...)
	for _, part := range c.m.Fresh {
		recs := c.m.Frame.Slice(part)
		for i := range recs {
			r := &recs[i]
			if r.Reading == nil {
				continue
			}
			rows++
			b = binary.BigEndian.AppendUint16(b, 9)
			for _, v := range [...]int64{epoch, int64(r.Seq), c.topic(r.Reading.Topic)} {
				b = appendInt8(b, v)
			}
			b = append(b, 0, 0, 0, 2)
			b = binary.BigEndian.AppendUint16(b, uint16(store.Flags(r.Reading)))
			for _, v := range [...]int64{int64(r.At.Boot), r.At.Wall, times.Correct(r.At), received} {
				b = appendInt8(b, v)
			}
			b = binary.BigEndian.AppendUint32(b, uint32(len(r.Reading.Payload)))
			b = append(b, r.Reading.Payload...)
		}
	}
	return rows, append(b, 0xff, 0xff)
}

func appendInt8(b []byte, v int64) []byte {
	return binary.BigEndian.AppendUint64(append(b, 0, 0, 0, 8), uint64(v))
}

// insertOthers writes the fresh records that are no readings.
func (c *commit) insertOthers(epoch int64) error {
	var b pgx.Batch
	received := c.m.Frame.Received.UnixNano()
	for _, part := range c.m.Fresh {
		recs := c.m.Frame.Slice(part)
		for i := range recs {
			switch r := &recs[i]; {
			case r.Anchor != nil:
				b.Queue("INSERT INTO anchors (epoch_id, seq, received, boot, wall, synchronised, moved, max_error) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
					epoch, int64(r.Seq), received, int64(r.At.Boot), r.At.Wall, r.Anchor.Synchronised, int64(r.Anchor.Moved), int64(r.Anchor.MaxError))
			case r.Loss != nil:
				queueLoss(&b, epoch, r, received)
			}
		}
	}
	if b.Len() == 0 {
		return nil
	}
	return failed("write losses and anchors", c.tx.SendBatch(c.ctx, &b).Close())
}

func queueLoss(b *pgx.Batch, epoch int64, r *telemetry.Record, received int64) {
	l := r.Loss
	var topic, size, sum any
	if o := l.Oversized; o != nil {
		topic, size, sum = strings.ReplaceAll(strings.ToValidUTF8(o.Topic, "\ufffd"), "\x00", "\ufffd"), o.Size, o.SHA256[:]
	}
	b.Queue(`INSERT INTO losses (epoch_id, seq, received, of_epoch, first, last, reason, readings, bytes, topic, size, sha256)
		VALUES ($1, $2, $3, $4, $5::numeric, $6::numeric, $7, $8::numeric, $9::numeric, $10, $11::numeric, $12)`,
		epoch, int64(r.Seq), received, epochText(l.Epoch), l.Seqs.First, l.Seqs.Last, int16(l.Reason), l.Count, l.Bytes, topic, size, sum)
}

// save writes back the agent, the ledgers that changed, alarms and quarantine.
func (c *commit) save() error {
	var b pgx.Batch
	a, f := c.m.Agent, c.m.Frame
	received := f.Received.UnixNano()
	for e := range c.m.Changed {
		l := c.m.Ledgers[e]
		b.Queue("UPDATE epochs SET ledger = $2, missing = $3, on_device = $4, watermark = $5, received_at = $6 WHERE id = $1",
			c.ids[e], l.Encode(), int64(l.Missing().Count()), int64(l.OnDevice().Count()), int64(l.Watermark()), received)
	}
	if len(c.m.Fresh) > 0 {
		b.Queue(`UPDATE epochs SET first_received = least(coalesce(nullif(first_received, 0), $2), $2), last_received = greatest(last_received, $2) WHERE id = $1`, c.ids[f.Epoch], received)
	}
	b.Queue(`UPDATE agents SET first_seen = $2, last_seen = $3, revision = $4, held = $5, expired = $6, quarantined = $7, lost = $8, on_device = $9, missing = $10,
		readings = $11, redelivered = $12, open_epochs = $13, lead = $14, lead_mark = $15, lead_turns = $16, sampled_at = $17 WHERE id = $1`,
		a.ID, nanos(a.FirstSeen), nanos(a.LastSeen), int64(a.Revision), int64(a.Held), int64(a.Expired), int64(a.Quarantined), int64(a.Lost), int64(a.OnDevice),
		int64(a.Missing), int64(a.Readings), int64(a.Redelivered), int64(a.OpenEpochs), epochText(a.Lead), int64(a.LeadMark), int64(a.LeadTurns), nanos(a.Sampled))
	if c.m.Sample {
		b.Queue("INSERT INTO backlog (agent_id, at, on_device, held) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING", a.ID, received, int64(a.OnDevice), int64(a.Held))
	}
	for _, l := range c.m.Alarms {
		b.Queue(`INSERT INTO alarms AS old (agent_id, kind, epoch, detail, first, last, count) VALUES ($1, $2, $3, $4, $5, $6, 1)
			ON CONFLICT (agent_id, kind, epoch) DO UPDATE SET detail = excluded.detail, last = excluded.last, count = old.count + 1`,
			a.ID, l.Kind, l.Epoch.String(), l.Detail, l.First.UnixNano(), l.Last.UnixNano())
	}
	if f.Raw != nil {
		b.Queue("INSERT INTO quarantine (agent, trusted, epoch, first, last, why, size, received, raw) VALUES ($1, true, $2, $3, $4, $5, $6, $7, $8)",
			f.Agent, f.Epoch.String(), int64(f.First), int64(f.Last), clean(f.Why), len(f.Raw), received, f.Raw)
	}
	return failed("write ledgers", c.tx.SendBatch(c.ctx, &b).Close())
}

// clean makes a text one that PostgreSQL takes.
func clean(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
}

type topicKey struct {
	agent int64
	name  string
}

// maxTopics bounds the topic numbers remembered: some 10 MB of short names.
const maxTopics = 100_000

func (s *Store) remember(fresh map[topicKey]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.topics)+len(fresh) > maxTopics {
		clear(s.topics)
	}
	for k, id := range fresh {
		k.name = strings.Clone(k.name) // the frame's memory is not kept for a topic
		s.topics[k] = id
	}
}

// topic returns the number of a topic that learnTopics has seen.
func (c *commit) topic(name string) int64 { return c.fresh[topicKey{c.m.Agent.ID, name}] }

// learnTopics finds the numbers of the frame's topics and makes those that are
// new. The agent's lock keeps two replicas from making the same.
func (c *commit) learnTopics() error {
	agent := c.m.Agent.ID
	var lack []string
	c.mu.Lock()
	for i := range c.m.Frame.Records {
		r := c.m.Frame.Records[i].Reading
		if r == nil {
			continue
		}
		k := topicKey{agent, r.Topic}
		if _, ok := c.fresh[k]; ok {
			continue
		}
		id, ok := c.topics[k]
		if c.fresh[k] = id; !ok {
			lack = append(lack, r.Topic)
		}
	}
	c.mu.Unlock()
	if len(lack) == 0 {
		return nil
	}
	hashes := make([][]byte, len(lack))
	for i, name := range lack {
		sum := sha256.Sum256([]byte(name))
		hashes[i] = sum[:]
	}
	rows, err := c.tx.Query(c.ctx, `WITH n AS (SELECT * FROM unnest($2::bytea[], $3::text[]) AS n(hash, name)),
		made AS (INSERT INTO topics (agent_id, hash, name) SELECT $1, n.hash, n.name FROM n WHERE NOT EXISTS (SELECT 1 FROM topics t WHERE t.agent_id = $1 AND t.hash = n.hash) RETURNING id, name)
		SELECT id, name FROM made UNION ALL SELECT t.id, t.name FROM topics t JOIN n ON t.hash = n.hash WHERE t.agent_id = $1`, agent, hashes, lack)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var name string
		if err := rows.Scan(&id, &name); err != nil {
			return err
		}
		c.fresh[topicKey{agent, name}] = id
	}
	return rows.Err()
}
