package postgres

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

//go:embed migrations
var migrations embed.FS

// migrationLock is the advisory lock under which replicas that start together
// migrate one after the other. Any constant will do.
const migrationLock = 0x486f6c6466617374

// migrate runs the migrations that the database lacks, each once, all in one
// transaction. It refuses a database that a newer version migrated.
func (s *Store) migrate(ctx context.Context) error {
	names, err := fs.Glob(migrations, "migrations/*.sql") // ascending
	if err != nil {
		return err
	}
	return s.write(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(migrationLock)); err != nil {
			return failed("lock migrations", err)
		}
		_, err := tx.Exec(ctx, "CREATE TABLE IF NOT EXISTS holdfast_schema (version int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())")
		if err != nil {
			return failed("make schema table", err)
		}
		var at int
		if err := tx.QueryRow(ctx, "SELECT coalesce(max(version), 0) FROM holdfast_schema").Scan(&at); err != nil {
			return failed("read schema version", err)
		}
		if at > len(names) {
			return fmt.Errorf("schema version %d is from a newer cloud-api; this one knows %d", at, len(names))
		}
		for _, name := range names[at:] {
			if err := apply(ctx, tx, name); err != nil {
				return err
			}
		}
		return nil
	})
}

func apply(ctx context.Context, tx pgx.Tx, name string) error {
	b, err := migrations.ReadFile(name)
	if err != nil {
		return err
	}
	number, _, _ := strings.Cut(strings.TrimPrefix(name, "migrations/"), "_")
	version, err := strconv.Atoi(number)
	if err != nil {
		return fmt.Errorf("migration %s: %w", name, err)
	}
	if _, err := tx.Exec(ctx, string(b)); err != nil {
		return failed("migration "+name, err)
	}
	_, err = tx.Exec(ctx, "INSERT INTO holdfast_schema (version) VALUES ($1)", version)
	return failed("note migration", err)
}

const (
	day = int64(24 * time.Hour)
	// ahead is how many days have a partition before they begin: a cloud whose
	// maintenance fails has as long to be noticed.
	ahead = 3
)

// partitions makes the partitions of yesterday, today and the days to come.
// Attaching needs no lock that readers or writers wait for.
func (s *Store) partitions(ctx context.Context) error {
	today := s.opt.Now().UnixNano() / day
	for d := today - 1; d <= today+ahead; d++ {
		name := partition(d)
		var there bool
		if err := s.pool.QueryRow(ctx, havePartition, name).Scan(&there); err != nil {
			return failed("look for partition", err)
		}
		if there {
			continue
		}
		if err := s.makePartition(ctx, name, d); err != nil {
			return err
		}
	}
	return nil
}

// havePartition asks the catalogue: to_regclass may answer from a cache that
// does not know yet what another replica made.
const havePartition = "SELECT EXISTS (SELECT 1 FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'readings'::regclass AND c.relname = $1)"

func (s *Store) makePartition(ctx context.Context, name string, d int64) error {
	return s.write(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(migrationLock)); err != nil {
			return failed("lock partitions", err)
		}
		var there bool
		if err := tx.QueryRow(ctx, havePartition, name).Scan(&there); err != nil || there {
			return failed("look for partition", err)
		}
		_, err := tx.Exec(ctx, fmt.Sprintf("CREATE TABLE %s (LIKE readings INCLUDING ALL); ALTER TABLE readings ATTACH PARTITION %s FOR VALUES FROM (%d) TO (%d)",
			name, name, d*day, (d+1)*day))
		return failed("make partition "+name, err)
	})
}

// partition names the partition of a day, given in days since 1970.
func partition(d int64) string {
	return "readings_" + time.Unix(0, d*day).UTC().Format("20060102")
}
