package sqlite

import (
	"context"
	"database/sql"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
)

// Fleet implements store.Store.
func (s *Store) Fleet(ctx context.Context) (f store.Fleet, err error) {
	f.Alarms = map[string]uint64{}
	err = s.view(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT count(*), coalesce(sum(revoked_at > 0), 0), coalesce(sum(held), 0), coalesce(sum(expired), 0), coalesce(sum(quarantined), 0),
			coalesce(sum(lost), 0), coalesce(sum(on_device), 0), coalesce(sum(missing), 0) FROM agents`).
			Scan(&f.Agents, &f.Revoked, &f.Held, &f.Expired, &f.Quarantined, &f.Lost, &f.OnDevice, &f.Missing)
		if err != nil {
			return failed("sum up agents", err)
		}
		if err := countAlarms(ctx, tx, &f); err != nil {
			return failed("count alarms", err)
		}
		rows, err := tx.QueryContext(ctx, "SELECT id FROM agents WHERE missing > 0 LIMIT ?", store.MaxHoles)
		if err != nil {
			return failed("look for holes", err)
		}
		ids, err := collect(rows, func() (id int64, err error) { return id, rows.Scan(&id) })
		if err != nil {
			return failed("look for holes", err)
		}
		for _, id := range ids {
			a := store.Agent{ID: id}
			if err := holes(ctx, tx, &a); err != nil {
				return err
			}
			f.AddHoles(&a)
		}
		return nil
	})
	return f, err
}

func countAlarms(ctx context.Context, tx *sql.Tx, f *store.Fleet) error {
	rows, err := tx.QueryContext(ctx, "SELECT kind, count(*) FROM alarms GROUP BY kind")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var kind string
		var n uint64
		if err := rows.Scan(&kind, &n); err != nil {
			return err
		}
		f.Alarms[kind] = n
	}
	return rows.Err()
}
