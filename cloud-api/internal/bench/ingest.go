package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store/postgres/pgtest"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

const (
	frameRows = 1000 // readings of a frame: what a good link carries
	inFlight  = 4    // frames that an agent has on the way
)

// fleets are the numbers of agents that ingest is measured with.
var fleets = []int{1, 8}

// device is an agent that makes frames.
type device struct {
	name  string
	key   ed25519.PrivateKey
	epoch telemetry.Epoch
	seq   uint64
	boot  time.Time
	gap   time.Duration // between two readings
	topic func(seq uint64) string
}

func payload(seq uint64) []byte {
	return fmt.Appendf(nil, `{"ts":%d,"temperature":%.2f,"humidity":%.1f,"pressure":%.1f,"status":"ok","sensor":"s-%03d"}`,
		1780000000000+seq, 20+float64(seq%977)/100, 40+float64(seq%313)/10, 1000+float64(seq%97)/10, seq%20)
}

// next returns the event of the device's next frame.
func (d *device) next(rows int) ([]byte, error) {
	f, err := d.frame(rows)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]string{
		"id": "1", "source": "edge-agent", "specversion": "1.0", "type": "com.dapr.event.sent", "datacontenttype": "application/octet-stream",
		"pubsubname": "holdfast", "topic": "up.backlog", "data_base64": base64.StdEncoding.EncodeToString(f),
	})
}

// frame makes the device's next frame. It begins with an anchor once in a while, as
// those of a device do.
func (d *device) frame(rows int) ([]byte, error) {
	recs := make([]telemetry.Record, 0, rows)
	first := d.seq + 1
	for range rows {
		d.seq++
		at := telemetry.Instant{Boot: time.Duration(d.seq) * d.gap, Wall: d.boot.UnixNano() + int64(d.seq)*int64(d.gap)}
		if d.seq%100_000 == 1 {
			recs = append(recs, telemetry.Record{Seq: d.seq, Kind: telemetry.KindAnchor, At: at, Anchor: &telemetry.Anchor{Synchronised: true}})
			continue
		}
		recs = append(recs, telemetry.Record{
			Seq: d.seq, Kind: telemetry.KindReading, At: at, Reading: &telemetry.Reading{Topic: d.topic(d.seq), QoS: 1, Payload: payload(d.seq)},
		})
	}
	return telemetry.EncodeFrame(telemetry.Header{
		Agent: d.name, Epoch: d.epoch, First: first, Last: d.seq, OpenTotal: 1,
		Open: []telemetry.OpenEpoch{{Epoch: d.epoch, Lowest: 1, Durable: d.seq}}, Sent: recs[len(recs)-1].At,
	}, recs, d.key)
}

func machineTopic(seq uint64) string { return fmt.Sprintf("plant/1/machine/%d/telemetry", seq%20) }

// fleet enrols so many devices.
func (b *bench) fleet(ctx context.Context, c *cloud, name string, n int) ([]*device, error) {
	devices := make([]*device, n)
	for i := range devices {
		d := &device{name: fmt.Sprintf("%s-%d", name, i), epoch: telemetry.Epoch{Ordinal: 1, ID: [8]byte{1}}, boot: time.Now().Add(-time.Hour), gap: time.Microsecond * 100, topic: machineTopic}
		var err error
		if d.key, err = c.enrol(ctx, b.program, d.name); err != nil {
			return nil, err
		}
		devices[i] = d
	}
	return devices, nil
}

// sqlite measures ingest on SQLite.
func (b *bench) sqlite(ctx context.Context) error {
	c, err := b.start(ctx, "sqlite", fmt.Sprintf("{sqlite: {path: %q}}", filepath.Join(b.work, "sqlite", "cloud.db")))
	if err != nil {
		return err
	}
	_, err = b.ingest(ctx, c, "SQLite", nil)
	return errors.Join(err, c.stop())
}

// postgres measures ingest on PostgreSQL, each round beside one of plain COPY.
func (b *bench) postgres(ctx context.Context) (err error) {
	c, dsn, stop, err := b.startPostgres(ctx, "postgres")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	var copied []float64
	rates, err := b.ingest(ctx, c, "PostgreSQL", func() error {
		rate, err := plainCopy(ctx, dsn, b.rows)
		copied = append(copied, rate)
		return err
	})
	if err != nil {
		return err
	}
	b.add("plain COPY of such rows, 1000 a transaction", copied, "rows/s", goal{})
	// Both vary with what else the disk does: each round of ingest is held to the
	// COPY that ran right after it.
	for _, agents := range fleets {
		ratios := make([]float64, b.rounds)
		for i, rate := range rates[agents] {
			ratios[i] = rate / copied[0]
			copied = copied[1:]
		}
		b.add(fmt.Sprintf("PostgreSQL: ingest beside plain COPY, agents: %d", agents), ratios, "x", goal{least: 0.5})
	}
	return nil
}

// startPostgres starts a server and a cloud on it.
func (b *bench) startPostgres(ctx context.Context, name string) (*cloud, string, func() error, error) {
	if err := os.Setenv("TMPDIR", b.work); err != nil {
		return nil, "", nil, err
	}
	if err := os.Chmod(b.work, 0o755); err != nil { // the server's user has to get through
		return nil, "", nil, err
	}
	pg, err := pgtest.Start("shared_buffers=256MB", "max_wal_size=4GB", "checkpoint_timeout=30min")
	if err != nil {
		return nil, "", nil, err
	}
	dsn, err := pg.Database()
	file := filepath.Join(b.work, name+".dsn")
	if err == nil {
		err = os.WriteFile(file, []byte(dsn), 0o600)
	}
	if err != nil {
		return nil, "", nil, errors.Join(err, pg.Stop())
	}
	c, err := b.start(ctx, name, fmt.Sprintf("{postgres: {dsn_file: %q}}", file))
	if err != nil {
		return nil, "", nil, errors.Join(err, pg.Stop())
	}
	return c, dsn, func() error { return errors.Join(c.stop(), pg.Stop()) }, nil
}

// ingest measures new frames and the same frames again, with one agent and with
// eight. beside, where it is not nil, runs after each round of new frames.
func (b *bench) ingest(ctx context.Context, c *cloud, name string, beside func() error) (map[int][]float64, error) {
	rates := map[int][]float64{}
	for _, agents := range fleets {
		devices, err := b.fleet(ctx, c, fmt.Sprintf("ingest-%d", agents), agents)
		if err != nil {
			return nil, err
		}
		var again []float64
		for range b.rounds {
			events := make([][][]byte, agents)
			for n := range b.rows / frameRows {
				e, err := devices[n%agents].next(frameRows)
				if err != nil {
					return nil, err
				}
				events[n%agents] = append(events[n%agents], e)
			}
			for _, into := range []*[]float64{nil, &again} {
				rate, err := hand(ctx, c, events)
				if err != nil {
					return nil, err
				}
				if into == nil {
					rates[agents] = append(rates[agents], rate)
					if beside != nil {
						if err := beside(); err != nil {
							return nil, err
						}
					}
					continue
				}
				*into = append(*into, rate)
			}
		}
		b.add(fmt.Sprintf("%s: ingest over HTTP, 1000 a frame, agents: %d", name, agents), rates[agents], "rows/s", goal{least: 60_000})
		b.add(fmt.Sprintf("%s: the same frames again, agents: %d", name, agents), again, "rows/s", goal{least: 2 * median(sorted(rates[agents]))})
	}
	if err := b.complete(c); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	b.add(name+": resident memory of cloud-api, highest", []float64{float64(c.maxAll) / 1e6}, "MB", goal{most: 150})
	b.add(name+": of it not shared with files, highest", []float64{float64(c.maxRSS) / 1e6}, "MB", goal{})
	return rates, nil
}

// hand delivers all events, some of each agent at a time, and returns the rows a
// second.
func hand(ctx context.Context, c *cloud, events [][][]byte) (float64, error) {
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	n, start := 0, time.Now()
	for _, list := range events {
		n += len(list)
		next := make(chan []byte)
		wg.Go(func() {
			for _, e := range list {
				next <- e
			}
			close(next)
		})
		for range inFlight {
			wg.Go(func() {
				for e := range next {
					if err := c.deliver(ctx, e); err != nil {
						failed.Store(&err)
					}
				}
			})
		}
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(n*frameRows) / time.Since(start).Seconds(), nil
}

// complete makes sure that what was measured was also done.
func (b *bench) complete(c *cloud) error {
	held, err := c.held()
	if err != nil {
		return err
	}
	if want := 2 * b.rounds * (b.rows / frameRows) * frameRows; held != want {
		return fmt.Errorf("%d records are held, %d were delivered: the figures mean nothing", held, want)
	}
	return nil
}

// held counts what all agents have there; a record that nothing explains is an
// error.
func (c *cloud) held() (n int, err error) {
	text, err := c.get("/v1/agents")
	if err != nil {
		return 0, err
	}
	var list struct {
		Agents []struct {
			ID          string
			Held        int
			Unexplained int
		}
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return 0, err
	}
	for _, a := range list.Agents {
		n += a.Held
		if a.Unexplained > 0 {
			return 0, fmt.Errorf("%d records of %s are unexplained", a.Unexplained, a.ID)
		}
	}
	return n, nil
}

// plainCopy is what ingest is measured by: COPY of such rows into a table with a
// primary key and nothing else, a transaction for each thousand.
func plainCopy(ctx context.Context, dsn string, rows int) (rate float64, err error) {
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.Close(ctx)) }()
	_, err = c.Exec(ctx, `DROP TABLE IF EXISTS plain; CREATE TABLE plain (epoch_id bigint, seq bigint, topic_id bigint, flags smallint, boot bigint,
		recorded bigint, corrected bigint, received bigint, payload bytea, PRIMARY KEY (epoch_id, seq))`)
	if err != nil {
		return 0, err
	}
	columns := []string{"epoch_id", "seq", "topic_id", "flags", "boot", "recorded", "corrected", "received", "payload"}
	sample := bytes.Clone(payload(1))
	seq, start := int64(0), time.Now()
	for range rows / frameRows {
		n := 0
		_, err := c.CopyFrom(ctx, pgx.Identifier{"plain"}, columns, pgx.CopyFromFunc(func() ([]any, error) {
			if n++; n > frameRows {
				return nil, nil
			}
			seq++
			return []any{int64(1), seq, seq % 20, int16(1), seq, seq, seq, seq, sample}, nil
		}))
		if err != nil {
			return 0, err
		}
	}
	return float64(seq) / time.Since(start).Seconds(), nil
}
