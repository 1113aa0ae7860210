package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/clock"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/ledger"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// seqBits is how many bits of a reading's key are its seq.
const seqBits = 40

// Commit implements store.Store.
func (s *Store) Commit(ctx context.Context, f store.Frame) (store.Result, error) {
	need, err := store.Needs(&f)
	if err != nil {
		return store.Result{}, err
	}
	var res store.Result
	err = s.write.do(ctx, func(ses *session) (err error) {
		res, err = ses.commit(&f, need)
		return err
	})
	if err != nil {
		return store.Result{}, err
	}
	return res, nil
}

// commit is one frame within the writer's transaction.
func (s *session) commit(f *store.Frame, need []telemetry.Epoch) (store.Result, error) {
	agent, err := s.agent(f.Agent)
	if err != nil {
		return store.Result{}, err
	}
	if !agent.RevokedAt.IsZero() {
		return store.Result{}, fmt.Errorf("agent %s: %w", f.Agent, store.ErrRevoked)
	}
	ids, ledgers, err := s.ledgers(agent.ID, need)
	if err != nil {
		return store.Result{}, err
	}
	m := store.Merge{Frame: f, Agent: agent, Ledgers: ledgers}
	if store.Begins(f) {
		err := s.row("SELECT count(*) FROM epochs WHERE agent_id = ? AND ordinal = ? AND id <> ?", []any{agent.ID, int64(f.Epoch.Ordinal), ids[f.Epoch]}, &m.Rivals)
		if err != nil {
			return store.Result{}, unavailable(fmt.Errorf("look for rivals: %w", err))
		}
	}
	m.Apply()
	if err := s.insert(&m, ids[f.Epoch]); err != nil {
		return store.Result{}, err
	}
	if err := s.save(&m, ids); err != nil {
		return store.Result{}, err
	}
	return m.Result(), nil
}

func (s *session) agent(name string) (*store.Agent, error) {
	a, err := scanAgent(func(into ...any) error {
		return s.row("SELECT "+agentColumns+" FROM agents WHERE name = ?", []any{name}, into...)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("agent %s: %w", name, store.ErrNotFound)
	}
	if err != nil {
		return nil, unavailable(fmt.Errorf("read agent: %w", err))
	}
	return &a, nil
}

// ledgers reads the rows of the epochs, and makes those that are new.
func (s *session) ledgers(agent int64, need []telemetry.Epoch) (map[telemetry.Epoch]int64, map[telemetry.Epoch]*ledger.Epoch, error) {
	ids := make(map[telemetry.Epoch]int64, len(need))
	out := make(map[telemetry.Epoch]*ledger.Epoch, len(need))
	for _, e := range need {
		id, b, err := s.ledger(agent, e)
		if err != nil {
			return nil, nil, unavailable(fmt.Errorf("read ledger of epoch %s: %w", e, err))
		}
		l, err := ledger.Decode(b)
		if err != nil {
			return nil, nil, fmt.Errorf("ledger of epoch %s: %w", e, err)
		}
		ids[e], out[e] = id, l
	}
	return ids, out, nil
}

func (s *session) ledger(agent int64, e telemetry.Epoch) (id int64, b []byte, err error) {
	err = s.row("SELECT id, ledger FROM epochs WHERE agent_id = ? AND ordinal = ? AND eid = ?",
		[]any{agent, int64(e.Ordinal), e.ID[:]}, &id, &b)
	if !errors.Is(err, sql.ErrNoRows) {
		return id, b, err
	}
	r, err := s.exec("INSERT INTO epochs (agent_id, ordinal, eid, ledger) VALUES (?, ?, ?, x'')", agent, int64(e.Ordinal), e.ID[:])
	if err != nil {
		return 0, nil, err
	}
	id, err = r.LastInsertId()
	if err == nil && id >= 1<<(63-seqBits) {
		err = fmt.Errorf("epoch %d is beyond what one file can number", id)
	}
	return id, nil, err
}

// save writes back the agent, the ledgers that changed, alarms and quarantine.
func (s *session) save(m *store.Merge, ids map[telemetry.Epoch]int64) error {
	at := m.Frame.Received.UnixNano()
	for e := range m.Changed {
		l := m.Ledgers[e]
		_, err := s.exec("UPDATE epochs SET ledger = ?, missing = ?, on_device = ?, watermark = ?, received_at = ? WHERE id = ?",
			l.Encode(), int64(l.Missing().Count()), int64(l.OnDevice().Count()), int64(l.Watermark()), at, ids[e])
		if err != nil {
			return unavailable(fmt.Errorf("write ledger: %w", err))
		}
	}
	if len(m.Fresh) > 0 {
		if _, err := s.exec("UPDATE epochs SET last_received = max(last_received, ?) WHERE id = ?", at, ids[m.Frame.Epoch]); err != nil {
			return unavailable(fmt.Errorf("write ledger: %w", err))
		}
	}
	if err := s.saveAgent(m.Agent); err != nil {
		return unavailable(fmt.Errorf("write agent: %w", err))
	}
	if m.Sample {
		if _, err := s.exec("INSERT OR IGNORE INTO backlog (agent_id, at, on_device, held) VALUES (?, ?, ?, ?)", m.Agent.ID, at, int64(m.Agent.OnDevice), int64(m.Agent.Held)); err != nil {
			return unavailable(fmt.Errorf("note backlog: %w", err))
		}
	}
	for _, a := range m.Alarms {
		_, err := s.exec(`INSERT INTO alarms (agent_id, kind, epoch, detail, first, last, count) VALUES (?, ?, ?, ?, ?, ?, 1)
			ON CONFLICT DO UPDATE SET detail = excluded.detail, last = excluded.last, count = count + 1`,
			m.Agent.ID, a.Kind, a.Epoch.String(), a.Detail, a.First.UnixNano(), a.Last.UnixNano())
		if err != nil {
			return unavailable(fmt.Errorf("write alarm: %w", err))
		}
	}
	if !m.Keep {
		return nil
	}
	return s.saveRaw(m.Frame)
}

func (s *session) saveRaw(f *store.Frame) error {
	_, err := s.exec("INSERT INTO quarantine (agent, trusted, epoch, first, last, why, size, received, raw) VALUES (?, 1, ?, ?, ?, ?, ?, ?, ?)",
		f.Agent, f.Epoch.String(), int64(f.First), int64(f.Last), f.Why, len(f.Raw), f.Received.UnixNano(), f.Raw)
	if err != nil {
		return unavailable(fmt.Errorf("write quarantine: %w", err))
	}
	return nil
}

func (s *session) saveAgent(a *store.Agent) error {
	_, err := s.exec(`UPDATE agents SET first_seen = ?, last_seen = ?, revision = ?, held = ?, expired = ?, quarantined = ?, lost = ?, on_device = ?,
		missing = ?, readings = ?, redelivered = ?, open_epochs = ?, lead = ?, lead_mark = ?, lead_turns = ?, sampled_at = ? WHERE id = ?`,
		nanos(a.FirstSeen), nanos(a.LastSeen), int64(a.Revision), int64(a.Held), int64(a.Expired), int64(a.Quarantined), int64(a.Lost), int64(a.OnDevice),
		int64(a.Missing), int64(a.Readings), int64(a.Redelivered), int64(a.OpenEpochs), epochText(a.Lead), int64(a.LeadMark), int64(a.LeadTurns), nanos(a.Sampled), a.ID)
	return err
}

// rowsPerInsert is how many readings one statement takes: enough that the cost
// of a statement no longer shows, few enough that one is prepared quickly.
const rowsPerInsert = 50

var (
	insertOne  = insertReadings(1)
	insertMany = insertReadings(rowsPerInsert)
)

// insertReadings returns a statement for so many readings. OR FAIL: a conflict
// undoes the whole transaction here, so SQLite need not keep the pages that one
// statement changed.
func insertReadings(rows int) string {
	return "INSERT OR FAIL INTO readings (id, topic_id, flags, boot, recorded, corrected, received, payload) VALUES (?,?,?,?,?,?,?,?)" +
		strings.Repeat(",(?,?,?,?,?,?,?,?)", rows-1)
}

// insert writes the frame's fresh records.
func (s *session) insert(m *store.Merge, epoch int64) error {
	if len(m.Fresh) == 0 {
		return nil
	}
	times, err := s.timeline(m, epoch)
	if err != nil {
		return unavailable(fmt.Errorf("read anchors: %w", err))
	}
	if err := s.anchors(m, epoch, times); err != nil {
		return unavailable(fmt.Errorf("note anchors: %w", err))
	}
	args := make([]any, 0, rowsPerInsert*8)
	for _, part := range m.Fresh {
		recs := m.Frame.Slice(part)
		for i := range recs {
			if args, err = s.insertRecord(m, epoch, &recs[i], times, args); err != nil {
				return unavailable(fmt.Errorf("write seq %d: %w", recs[i].Seq, err))
			}
		}
	}
	return s.flush(args)
}

func (s *session) insertRecord(m *store.Merge, epoch int64, r *telemetry.Record, times *clock.Timeline, args []any) ([]any, error) {
	switch {
	case r.Reading != nil:
		topic, err := s.topic(m.Agent.ID, r.Reading.Topic)
		if err != nil {
			return args, err
		}
		args = append(args, epoch<<seqBits|int64(r.Seq), topic, store.Flags(r.Reading), int64(r.At.Boot), r.At.Wall, times.Correct(r.At),
			m.Frame.Received.UnixNano(), notNil(r.Reading.Payload))
		if len(args) < rowsPerInsert*8 {
			return args, nil
		}
		_, err = s.exec(insertMany, args...)
		return args[:0], err
	case r.Loss != nil:
		return args, s.insertLoss(epoch, r, m.Frame.Received)
	case r.Anchor != nil:
		_, err := s.exec("INSERT INTO anchors (epoch_id, seq, received, boot, wall, synchronised, moved, max_error) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
			epoch, int64(r.Seq), m.Frame.Received.UnixNano(), int64(r.At.Boot), r.At.Wall, r.Anchor.Synchronised, int64(r.Anchor.Moved), int64(r.Anchor.MaxError))
		return args, err
	}
	return args, nil
}

// flush writes the readings that did not fill a statement.
func (s *session) flush(args []any) error {
	for ; len(args) > 0; args = args[8:] {
		if _, err := s.exec(insertOne, args[:8]...); err != nil {
			return unavailable(fmt.Errorf("write readings: %w", err))
		}
	}
	return nil
}

func (s *session) insertLoss(epoch int64, r *telemetry.Record, at time.Time) error {
	var topic, size, sum any
	if o := r.Loss.Oversized; o != nil {
		topic, size, sum = o.Topic, int64(o.Size), o.SHA256[:]
	}
	_, err := s.exec("INSERT INTO losses (epoch_id, seq, received, of_epoch, first, last, reason, readings, bytes, topic, size, sha256) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		epoch, int64(r.Seq), at.UnixNano(), epochText(r.Loss.Epoch), int64(r.Loss.Seqs.First), int64(r.Loss.Seqs.Last), int64(r.Loss.Reason),
		int64(r.Loss.Count), int64(r.Loss.Bytes), topic, size, sum)
	return err
}

// maxTopics bounds the topic numbers remembered: some 10 MB of short names.
const maxTopics = 100_000

func (s *session) topic(agent int64, name string) (int64, error) {
	k := topicKey{agent, name}
	if id, ok := s.topics[k]; ok {
		return id, nil
	}
	var id int64
	err := s.row("SELECT id FROM topics WHERE agent_id = ? AND name = ?", []any{agent, name}, &id)
	if errors.Is(err, sql.ErrNoRows) {
		err = s.row("INSERT INTO topics (agent_id, name) VALUES (?, ?) RETURNING id", []any{agent, name}, &id)
	}
	if err != nil {
		return 0, err
	}
	if len(s.topics) >= maxTopics {
		clear(s.topics)
	}
	k.name = strings.Clone(name) // the frame's memory is not kept for a topic
	s.topics[k] = id
	return id, nil
}

// notNil keeps an empty payload from becoming NULL.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
