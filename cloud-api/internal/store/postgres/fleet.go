package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
)

// Fleet implements store.Store.
func (s *Store) Fleet(ctx context.Context) (f store.Fleet, err error) {
	f.Alarms = map[string]uint64{}
	err = s.view(ctx, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `SELECT count(*), count(*) FILTER (WHERE revoked_at > 0), coalesce(sum(held), 0)::bigint, coalesce(sum(expired), 0)::bigint, coalesce(sum(quarantined), 0)::bigint,
			coalesce(sum(lost), 0)::bigint, coalesce(sum(on_device), 0)::bigint, coalesce(sum(missing), 0)::bigint FROM agents`).
			Scan(&f.Agents, &f.Revoked, &f.Held, &f.Expired, &f.Quarantined, &f.Lost, &f.OnDevice, &f.Missing)
		if err != nil {
			return failed("sum up agents", err)
		}
		if err := countAlarms(ctx, tx, &f); err != nil {
			return failed("count alarms", err)
		}
		agents, err := list(ctx, tx, func(scan func(...any) error) (a store.Agent, err error) {
			err = scan(&a.ID, &a.Missing)
			return a, err
		}, "SELECT id, missing FROM agents WHERE missing > 0 LIMIT $1", store.MaxHoles)
		if err != nil {
			return failed("look for holes", err)
		}
		for i := range agents {
			if err := holes(ctx, tx, &agents[i]); err != nil {
				return err
			}
			f.AddHoles(&agents[i])
		}
		return nil
	})
	return f, err
}

func countAlarms(ctx context.Context, tx pgx.Tx, f *store.Fleet) error {
	rows, err := tx.Query(ctx, "SELECT kind, count(*) FROM alarms GROUP BY kind")
	if err != nil {
		return err
	}
	var kind string
	var n uint64
	_, err = pgx.ForEachRow(rows, []any{&kind, &n}, func() error {
		f.Alarms[kind] = n
		return nil
	})
	return err
}
