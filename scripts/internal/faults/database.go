package faults

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/copies"
	"github.com/holdfast-edge/holdfast/scripts/internal/process"
)

func databases() []Fault {
	return []Fault{
		{Name: "database-stopped", About: "the primary is stopped in order, and started again after a while", Needs: []Need{Postgres}, Does: databaseStopped},
		{Name: "database-crashed", About: "the primary ends without a goodbye, and is started again after a while", Needs: []Need{Postgres}, Does: databaseCrashed},
		{Name: "database-failed-over", About: "the primary is gone for good, the asynchronous standby takes over", Needs: []Need{Postgres}, May: []string{"restored"}, Does: databaseFailedOver},
		{Name: "database-restored", About: "an older backup of the database is put back", Must: []string{"restored"}, Does: databaseRestored},
		{Name: "database-full", About: "no room on the database's disk", Needs: []Need{SmallDisks}, Ends: []string{"postgres-"}, Does: databaseFull},
	}
}

func databaseStopped(ctx context.Context, t *Target) (string, error) {
	p := t.Stack.Postgres.Primary
	return t.down(ctx, func() error { return p.Stop(CatchUp) })
}

func databaseCrashed(ctx context.Context, t *Target) (string, error) {
	return t.down(ctx, t.Stack.Postgres.Crash)
}

func (t *Target) down(ctx context.Context, stop func() error) (string, error) {
	away := t.some(2*time.Second, 4*time.Second)
	if err := stop(); err != nil {
		return "", err
	}
	if err := pause(ctx, away); err != nil {
		return "", err
	}
	db := t.Stack.Postgres
	if err := db.Primary.Start(); err != nil {
		return "", err
	}
	return fmt.Sprintf("away for %v", away), db.Ready(ctx)
}

func databaseFailedOver(ctx context.Context, t *Target) (string, error) {
	db := t.Stack.Postgres
	before, err := t.held(ctx)
	if err != nil {
		return "", err
	}
	begin := time.Now()
	if err := db.FailOver(ctx); err != nil {
		return "", err
	}
	took := time.Since(begin)
	after := uint64(0)
	err = until(ctx, "the cloud to find the new primary", func() (_ bool, err error) {
		after, err = t.held(ctx)
		return true, err
	})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s took over after %d ms, with %d records after %d", db.Primary.Name(), took.Milliseconds(), after, before), db.Rebuild(ctx)
}

// databaseRestored puts back what was there a while ago. The keys are no part of
// it. Devices still have what is gone, and send it again.
func databaseRestored(ctx context.Context, t *Target) (string, error) {
	backup, restore := t.fileBackup, t.fileRestore
	if t.Stack.Postgres != nil {
		backup = t.Stack.Postgres.Backup
		restore = func(ctx context.Context, from string) error {
			return errors.Join(t.Stack.Postgres.Restore(ctx, from), t.Stack.Postgres.Rebuild(ctx))
		}
	}
	from, err := backup(ctx)
	if err != nil {
		return "", err
	}
	if err := pause(ctx, t.some(2*time.Second, 4*time.Second)); err != nil {
		return "", err
	}
	// Without new frames meanwhile, it is seen that it went back.
	if err := t.Stack.Edge.Link.Cut(); err != nil {
		return "", err
	}
	before, err := t.still(ctx)
	if err != nil {
		return "", err
	}
	if err := restore(ctx, from); err != nil {
		return "", err
	}
	after := before
	err = until(ctx, "the restored database", func() (_ bool, err error) {
		after, err = t.held(ctx)
		return true, err
	})
	if err == nil && after >= before {
		err = fmt.Errorf("the cloud held %d records before and %d after: it did not go back", before, after)
	}
	return fmt.Sprintf("it held %d records fewer", before-min(before, after)), errors.Join(err, t.Stack.Edge.Link.Heal())
}

// still waits until the cloud takes in nothing more, and returns what it holds.
func (t *Target) still(ctx context.Context) (held uint64, err error) {
	since := time.Now()
	err = until(ctx, "the cloud to take in nothing more", func() (bool, error) {
		now, err := t.held(ctx)
		if now != held || err != nil {
			held, since = now, time.Now()
		}
		return time.Since(since) > time.Second, err
	})
	return held, err
}

// fileBackup copies SQLite's files while nobody uses them.
func (t *Target) fileBackup(ctx context.Context) (string, error) {
	older := filepath.Join(filepath.Dir(t.Stack.Database()), "older")
	return older, t.aside(ctx, func(database string) error { return copies.Database(older, database) })
}

func (t *Target) fileRestore(ctx context.Context, older string) error {
	return t.aside(ctx, func(database string) error {
		return errors.Join(copies.RemoveDatabase(database), copies.Database(filepath.Dir(database), filepath.Join(older, filepath.Base(database))))
	})
}

// aside kills the cloud, does something to its database, and starts it.
func (t *Target) aside(ctx context.Context, do func(database string) error) error {
	if err := each(t.clouds(), (*process.Process).Kill); err != nil {
		return err
	}
	if err := do(t.Stack.Database()); err != nil {
		return err
	}
	return errors.Join(each(t.clouds(), (*process.Process).Start), t.Stack.CloudReady(ctx))
}

// databaseFull lasts until nothing more is stored. A server that gives up is
// started again until there is room.
func databaseFull(ctx context.Context, t *Target) (string, error) {
	if err := t.Database.Fill(0); err != nil {
		return "", err
	}
	enough := uint64(2 * t.Rate)
	waiting := uint64(0)
	err := until(ctx, "records that wait because the database is full", func() (_ bool, err error) {
		waiting, err = t.waiting(ctx)
		return waiting > enough, err
	})
	if err := errors.Join(err, t.Database.Free()); err != nil {
		return "", err
	}
	words := fmt.Sprintf("%d records waited", waiting)
	if t.Stack.Postgres == nil {
		return words, nil
	}
	return words, t.Stack.Postgres.Ready(ctx)
}
