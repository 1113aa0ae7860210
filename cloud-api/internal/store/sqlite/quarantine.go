package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Reject implements store.Store.
func (s *Store) Reject(ctx context.Context, r store.Rejected) error {
	size, raw := len(r.Raw), bytes.Clone(r.Raw[:min(len(r.Raw), store.SampleBytes)]) // the caller may not wait
	return s.write.do(ctx, func(ses *session) error {
		_, err := ses.exec("INSERT INTO quarantine (agent, trusted, epoch, first, last, why, size, received, raw) VALUES (?, 0, '', 0, 0, ?, ?, ?, ?)",
			r.Agent, r.Why, size, r.Received.UnixNano(), notNil(raw))
		if err == nil {
			_, err = ses.exec("DELETE FROM quarantine WHERE trusted = 0 AND id <= (SELECT id FROM quarantine WHERE trusted = 0 ORDER BY id DESC LIMIT 1 OFFSET ?)", s.opt.Samples)
		}
		if err != nil {
			return unavailable(fmt.Errorf("write sample: %w", err))
		}
		return nil
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
func (s *Store) Quarantine(ctx context.Context, below int64, limit int) ([]store.Quarantined, error) {
	if below <= 0 {
		below = 1<<63 - 1
	}
	rows, err := s.read.QueryContext(ctx, "SELECT "+quarantineColumns+" FROM quarantine WHERE id < ? ORDER BY id DESC LIMIT ?", below, limit)
	if err != nil {
		return nil, unavailable(fmt.Errorf("list quarantine: %w", err))
	}
	out, err := collect(rows, func() (store.Quarantined, error) { return scanQuarantined(rows.Scan) })
	if err != nil {
		return nil, unavailable(fmt.Errorf("list quarantine: %w", err))
	}
	return out, nil
}

// QuarantinedFrame implements store.Store.
func (s *Store) QuarantinedFrame(ctx context.Context, id int64) (store.Quarantined, error) {
	var raw []byte
	q, err := scanQuarantined(s.read.QueryRowContext(ctx, "SELECT "+quarantineColumns+", raw FROM quarantine WHERE id = ?", id).Scan, &raw)
	if errors.Is(err, sql.ErrNoRows) {
		return q, fmt.Errorf("quarantined frame %d: %w", id, store.ErrNotFound)
	}
	if err != nil {
		return q, unavailable(fmt.Errorf("read quarantine: %w", err))
	}
	q.Raw = raw
	return q, nil
}
