// Package postgres keeps everything in PostgreSQL 15 or newer, for several
// replicas at once: they coordinate by the agent's row alone. It insists on a
// server that syncs, so what Commit answered is on its disk.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
)

// ErrUnsafe is returned by Open for a server that answers before its disk has
// the data.
var ErrUnsafe = errors.New("the PostgreSQL server runs with fsync=off: it would lose what devices were told is stored")

// Options says where the store is. Zero values have their defaults.
type Options struct {
	DSN         string // postgres://… or key=value; never logged
	Connections int32  // 0: 16
	Samples     int    // rejected events to keep; 0: 1 000
	Logger      *slog.Logger
	Now         func() time.Time // nil: time.Now; decides which partitions are made and dropped

	Retention time.Duration // how long readings are kept after they were received, in whole days; 0: for ever
}

// Store is a store.Store in one PostgreSQL database.
type Store struct {
	opt   Options
	pool  *pgxpool.Pool
	lines lines

	mu      sync.Mutex
	topics  map[topicKey]int64
	retired time.Time // when retention was last looked at
}

var _ store.Store = (*Store)(nil)

// Open connects, checks that the server is safe and brings the schema up to
// date. It fails when the server cannot be reached: at the start that is more
// often a wrong address than a server that is away.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Samples <= 0 {
		o.Samples = 1000
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	cfg, err := pgxpool.ParseConfig(o.DSN)
	if err != nil {
		return nil, errors.New("open database: the connection string is not valid") // the error would repeat its password
	}
	if cfg.MaxConns = o.Connections; cfg.MaxConns <= 0 {
		cfg.MaxConns = 16
	}
	cfg.ConnConfig.ConnectTimeout = 5 * time.Second
	cfg.ConnConfig.RuntimeParams["application_name"] = "holdfast-cloud"
	cfg.AfterConnect = insist
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	s := &Store{opt: o, pool: pool, topics: map[topicKey]int64{}}
	if err := s.prepare(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("open database: %w", err)
	}
	return s, nil
}

// insist makes every commit of a connection wait for the disk, whatever the
// database's or the user's settings say; what waits for more stays.
func insist(ctx context.Context, c *pgx.Conn) error {
	var fsync, sync string
	if err := c.QueryRow(ctx, "SELECT current_setting('fsync'), current_setting('synchronous_commit')").Scan(&fsync, &sync); err != nil {
		return err
	}
	if fsync != "on" {
		return ErrUnsafe
	}
	if sync == "off" || sync == "local" {
		_, err := c.Exec(ctx, "SET synchronous_commit = on")
		return err
	}
	return nil
}

func (s *Store) prepare(ctx context.Context) error {
	if err := s.migrate(ctx); err != nil {
		return err
	}
	return s.partitions(ctx)
}

// Close waits for the transactions in hand and closes the connections.
func (s *Store) Close() error {
	s.pool.Close()
	return nil
}

// Ping returns nil when the server takes writes: a standby does not.
func (s *Store) Ping(ctx context.Context) error {
	var readOnly string
	if err := s.pool.QueryRow(ctx, "SELECT current_setting('transaction_read_only')").Scan(&readOnly); err != nil {
		return failed("ping", err)
	}
	if readOnly != "off" {
		return fmt.Errorf("%w: the server is read-only, a standby perhaps", store.ErrUnavailable)
	}
	return nil
}

// Notes implements store.Store: it tells of a standby that may lack what was
// committed, and of readings outside of the daily partitions.
func (s *Store) Notes(ctx context.Context) ([]string, error) {
	var standbys []string
	var strays bool
	err := s.pool.QueryRow(ctx, `SELECT coalesce((SELECT array_agg(coalesce(application_name, '?') ORDER BY 1) FROM pg_stat_replication WHERE sync_state = 'async'), '{}'),
		EXISTS (SELECT 1 FROM readings_default)`).Scan(&standbys, &strays)
	if err != nil {
		return nil, failed("read notes", err)
	}
	var notes []string
	if len(standbys) > 0 {
		notes = append(notes, "asynchronous standby "+strings.Join(standbys, ", ")+": after a failover to it devices are asked again for what it lacks")
	}
	if strays {
		notes = append(notes, "readings in the default partition: no partition was made for their day in time")
	}
	return notes, nil
}

// failed wraps what the database says; nil stays nil. Everything may succeed
// later but what is wrong with our statement or its data.
func failed(doing string, err error) error {
	if err == nil {
		return nil
	}
	var e *pgconn.PgError
	if errors.As(err, &e) {
		switch e.Code[:2] {
		case "21", "22", "23", "42":
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	return fmt.Errorf("%w: %s: %w", store.ErrUnavailable, doing, err)
}

// write runs f in a transaction and commits it. An error of the commit itself
// may hide that it happened: the frame comes again and changes nothing.
func (s *Store) write(ctx context.Context, f func(pgx.Tx) error) error {
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		return failed("begin", err)
	}
	if err := f(tx); err != nil {
		rollback(tx)
		return err
	}
	return failed("commit", tx.Commit(ctx))
}

// view runs f in one snapshot, so that what it reads fits together.
func (s *Store) view(ctx context.Context, f func(pgx.Tx) error) error {
	tx, err := s.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return failed("begin reading", err)
	}
	defer rollback(tx)
	return f(tx)
}

// rollback ends a transaction whose context may have ended already.
func rollback(tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = tx.Rollback(ctx) // the connection is thrown away when this fails
}
