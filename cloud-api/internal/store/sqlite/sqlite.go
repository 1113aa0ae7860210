// Package sqlite keeps everything in one SQLite file: the store for one small
// server. It writes with synchronous=FULL through one connection, so what Commit
// answered is on the disk, and readers never wait for the writer.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"modernc.org/sqlite" // registers the driver
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
)

//go:embed migrations
var migrations embed.FS

// Options says where the store is. Zero values have their defaults.
type Options struct {
	Path    string // of the file; its folder is made when it is missing
	Readers int    // connections that read; 0: 4
	Samples int    // rejected events to keep; 0: 1 000
	Logger  *slog.Logger

	Retention time.Duration    // how long readings are kept after they were received; 0: for ever
	Now       func() time.Time // nil: time.Now
}

// Store is a store.Store in one SQLite file.
type Store struct {
	opt   Options
	read  *sql.DB
	write *writer

	mu      sync.Mutex
	retired time.Time // when retention was last looked at

	close sync.Once
}

var _ store.Store = (*Store)(nil)

// Open opens the file, makes it when it is missing and brings its schema up to
// date. It fails when the file cannot be written, is no database, or was made
// by a newer version.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Readers <= 0 {
		o.Readers = 4
	}
	if o.Samples <= 0 {
		o.Samples = 1000
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := os.MkdirAll(filepath.Dir(o.Path), 0o700); err != nil {
		return nil, fmt.Errorf("make database folder: %w", err)
	}
	w, err := openWriter(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", o.Path, err)
	}
	read, err := sql.Open("sqlite", dsn(o.Path, "query_only(1)", "cache_size(-8192)"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", o.Path, err), w.stop())
	}
	read.SetMaxOpenConns(o.Readers)
	read.SetMaxIdleConns(o.Readers)
	return &Store{opt: o, read: read, write: w}, nil
}

// dsn names the file with what every connection needs: the write-ahead log
// synced at each commit, and patience with another process's short write.
func dsn(path string, more ...string) string {
	q := url.Values{"_pragma": append([]string{"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)"}, more...)}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode()
}

// Close finishes the commits in hand, then closes the file. Later calls of
// every method return store.ErrUnavailable.
func (s *Store) Close() error {
	var err error
	s.close.Do(func() { err = errors.Join(s.write.stop(), s.read.Close()) })
	return err
}

// Ping commits an empty transaction.
func (s *Store) Ping(ctx context.Context) error {
	return s.write.do(ctx, func(*session) error { return nil })
}

// Notes implements store.Store: there is nothing to tell of one file.
func (s *Store) Notes(context.Context) ([]string, error) { return nil, nil }

// migrate runs the migrations that the file lacks, each in a transaction with its
// number, which is PRAGMA user_version. It refuses a file from the future.
func migrate(ctx context.Context, c *sql.Conn) error {
	names, err := fs.Glob(migrations, "migrations/*.sql") // ascending
	if err != nil {
		return err
	}
	var at int
	if err := c.QueryRowContext(ctx, "PRAGMA user_version").Scan(&at); err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	if at > len(names) {
		return fmt.Errorf("schema version %d is from a newer cloud-api; this one knows %d", at, len(names))
	}
	for i, name := range names[at:] {
		b, err := migrations.ReadFile(name)
		if err != nil {
			return err
		}
		_, err = c.ExecContext(ctx, fmt.Sprintf("BEGIN IMMEDIATE; %s; PRAGMA user_version=%d; COMMIT;", b, at+i+1))
		if err != nil {
			_, _ = c.ExecContext(ctx, "ROLLBACK") // the error above is the one to tell
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// unavailable marks what may succeed later: everything that the database says,
// but for a broken statement of ours.
func unavailable(err error) error {
	var e *sqlite.Error
	if errors.As(err, &e) {
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE, sqlite3.SQLITE_TOOBIG:
			return err
		}
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}
