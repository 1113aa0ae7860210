package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Reject implements store.Store.
func (s *Store) Reject(ctx context.Context, r store.Rejected) error {
	raw := append([]byte{}, r.Raw[:min(len(r.Raw), store.SampleBytes)]...)
	return s.write(ctx, func(tx pgx.Tx) error {
		var b pgx.Batch
		b.Queue("INSERT INTO quarantine (agent, trusted, epoch, first, last, why, size, received, raw) VALUES ($1, false, '', 0, 0, $2, $3, $4, $5)",
			clean(r.Agent), clean(r.Why), len(r.Raw), r.Received.UnixNano(), raw)
		b.Queue("DELETE FROM quarantine WHERE NOT trusted AND id <= (SELECT id FROM quarantine WHERE NOT trusted ORDER BY id DESC LIMIT 1 OFFSET $1)", s.opt.Samples)
		return failed("write sample", tx.SendBatch(ctx, &b).Close())
	})
}

const quarantineColumns = "id, agent, trusted, epoch, first, last, why, size, received"

func scanQuarantined(scan func(...any) error, more ...any) (q store.Quarantined, err error) {
	var epoch string
	var at int64
	err = scan(append([]any{&q.ID, &q.Agent, &q.Trusted, &epoch, &q.Seqs.First, &q.Seqs.Last, &q.Why, &q.Size, &at}, more...)...)
	if err == nil && epoch != "" {
		q.Epoch, err = telemetry.ParseEpoch(epoch)
	}
	q.Received = moment(at)
	return q, err
}

// Quarantine implements store.Store.
func (s *Store) Quarantine(ctx context.Context, below int64, limit int) (out []store.Quarantined, err error) {
	if below <= 0 {
		below = 1<<63 - 1
	}
	err = s.view(ctx, func(tx pgx.Tx) error {
		out, err = list(ctx, tx, func(scan func(...any) error) (store.Quarantined, error) { return scanQuarantined(scan) },
			"SELECT "+quarantineColumns+" FROM quarantine WHERE id < $1 ORDER BY id DESC LIMIT $2", below, limit)
		return failed("list quarantine", err)
	})
	return out, err
}

// QuarantinedFrame implements store.Store.
func (s *Store) QuarantinedFrame(ctx context.Context, id int64) (store.Quarantined, error) {
	var raw []byte
	q, err := scanQuarantined(s.pool.QueryRow(ctx, "SELECT "+quarantineColumns+", raw FROM quarantine WHERE id = $1", id).Scan, &raw)
	if errors.Is(err, pgx.ErrNoRows) {
		return q, fmt.Errorf("quarantined frame %d: %w", id, store.ErrNotFound)
	}
	q.Raw = raw
	return q, failed("read quarantine", err)
}
