package postgres

import (
	"crypto/sha256"
	"encoding/binary"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/clock"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// insert writes the frames' fresh readings.
func (c *commit) insert(conn *pgx.Conn) error {
	if err := c.timelines(); err != nil {
		return failed("work in anchors", err)
	}
	if err := c.learnTopics(); err != nil {
		return failed("write topics", err)
	}
	rows := &copier{c: c}
	if rows.fill(); len(rows.buf) == 0 {
		return nil
	}
	_, err := conn.PgConn().CopyFrom(c.ctx, rows,
		"COPY readings (epoch_id, seq, topic_id, flags, boot, recorded, corrected, received, payload) FROM STDIN BINARY")
	return failed("copy readings", err)
}

// copyChunk is how much of a COPY is encoded at a time: with a row more it is
// still sent at once.
const copyChunk = 48 << 10

var copyHeader, copyEnd = []byte("PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"), []byte{0xff, 0xff}

// copier gives the fresh readings in COPY's binary format, a piece at a time: all
// of them at once can be megabytes.
type copier struct {
	c     *commit
	buf   []byte // encoded and not read yet
	mem   []byte // where buf lies
	merge int    // the next reading: of which frame, part and record
	part  int
	rec   int
	state int // 0 nothing written, 1 within, 2 all written
}

// Read implements io.Reader.
func (r *copier) Read(p []byte) (int, error) {
	if len(r.buf) == 0 {
		r.fill()
	}
	if len(r.buf) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.buf)
	r.buf = r.buf[n:]
	return n, nil
}

// fill encodes the next piece; none when there is nothing to copy, or no more.
func (r *copier) fill() {
	b := r.mem[:0]
	for len(b) < copyChunk && r.state < 2 {
		m, rec := r.next()
		switch {
		case rec != nil && r.state == 0:
			r.state, b = 1, append(make([]byte, 0, copyChunk+copyChunk/2), copyHeader...)
			fallthrough
		case rec != nil:
			b = r.append(b, m, rec)
		case r.state == 1:
			r.state, b = 2, append(b, copyEnd...)
		default:
			r.state = 2
		}
	}
	r.buf, r.mem = b, b
}

// next returns the next fresh reading, nil at the end.
func (r *copier) next() (*store.Merge, *telemetry.Record) {
	for ; r.merge < len(r.c.merges); r.merge, r.part = r.merge+1, 0 {
		m := r.c.merges[r.merge]
		for ; r.part < len(m.Fresh); r.part, r.rec = r.part+1, 0 {
			recs := m.Frame.Slice(m.Fresh[r.part])
			for r.rec < len(recs) {
				rec := &recs[r.rec]
				if r.rec++; rec.Reading != nil {
					return m, rec
				}
			}
		}
	}
	return nil, nil
}

func (r *copier) append(b []byte, m *store.Merge, rec *telemetry.Record) []byte {
	e := m.Frame.Epoch
	b = append(b, 0, 9) // columns
	for _, v := range [...]int64{r.c.ids[e], int64(rec.Seq), r.c.fresh[topicKey{r.c.agent.ID, rec.Reading.Topic}]} {
		b = appendInt8(b, v)
	}
	b = append(b, 0, 0, 0, 2)
	b = binary.BigEndian.AppendUint16(b, uint16(store.Flags(rec.Reading)))
	for _, v := range [...]int64{int64(rec.At.Boot), rec.At.Wall, r.c.times[e].Correct(rec.At), m.Frame.Received.UnixNano()} {
		b = appendInt8(b, v)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(rec.Reading.Payload)))
	return append(b, rec.Reading.Payload...)
}

func appendInt8(b []byte, v int64) []byte {
	return binary.BigEndian.AppendUint64(append(b, 0, 0, 0, 8), uint64(v))
}

// timelines returns what is known of true time around the records of each epoch.
func (c *commit) timelines() error {
	c.times = map[telemetry.Epoch]*clock.Timeline{}
	for i, m := range c.merges {
		e := m.Frame.Epoch
		if len(m.Fresh) == 0 || c.times[e] != nil {
			continue
		}
		t, err := c.timesOf(e, c.merges[i:])
		if err != nil {
			return err
		}
		c.times[e] = t
	}
	return nil
}

// queueOthers queues the fresh records of a frame that are no readings.
func queueOthers(b *pgx.Batch, m *store.Merge, epoch int64) {
	received := m.Frame.Received.UnixNano()
	for _, part := range m.Fresh {
		recs := m.Frame.Slice(part)
		for i := range recs {
			switch r := &recs[i]; {
			case r.Anchor != nil:
				b.Queue("INSERT INTO anchors (epoch_id, seq, received, boot, wall, synchronised, moved, max_error) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
					epoch, int64(r.Seq), received, int64(r.At.Boot), r.At.Wall, r.Anchor.Synchronised, int64(r.Anchor.Moved), int64(r.Anchor.MaxError))
			case r.Loss != nil:
				queueLoss(b, epoch, r, received)
			}
		}
	}
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

// unknownTopics collects the numbers of the frames' topics that are remembered,
// and returns the topics that are not.
func (c *commit) unknownTopics() (lack []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.merges {
		for i := range m.Frame.Records {
			r := m.Frame.Records[i].Reading
			if r == nil {
				continue
			}
			k := topicKey{c.agent.ID, r.Topic}
			if _, ok := c.fresh[k]; ok {
				continue
			}
			id, ok := c.topics[k]
			if c.fresh[k] = id; !ok {
				lack = append(lack, r.Topic)
			}
		}
	}
	return lack
}

// learnTopics finds the numbers of the frames' topics and makes those that are
// new. The agent's lock keeps two replicas from making the same.
func (c *commit) learnTopics() error {
	agent, lack := c.agent.ID, c.unknownTopics()
	if len(lack) == 0 {
		return nil
	}
	hashes := make([][]byte, len(lack))
	for i, name := range lack {
		sum := sha256.Sum256([]byte(name))
		hashes[i] = sum[:]
	}
	rows, err := c.db.Query(c.ctx, `WITH n AS (SELECT * FROM unnest($2::bytea[], $3::text[]) AS n(hash, name)),
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
