package sqlite_test

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store/sqlite"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store/storetest"
)

type database string

func (d database) Open(t *testing.T, now time.Time, retention time.Duration) store.Store {
	t.Helper()
	st, err := sqlite.Open(t.Context(), sqlite.Options{
		Path: string(d), Samples: storetest.Samples, Retention: retention, Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return st
}

func fresh(t *testing.T) storetest.Database {
	return database(filepath.Join(t.TempDir(), "cloud.db"))
}

// SQLite behaves as every store does.
func TestConformance(t *testing.T) { storetest.Run(t, fresh) }

// A file made by an older version keeps what is in it and gets what it lacks.
func TestOlderFileIsMigrated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cloud.db")
	first, err := os.ReadFile("migrations/0001_schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	do := func(statement string) {
		t.Helper()
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = db.Exec(statement)
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
	}
	do(string(first) + `; PRAGMA user_version=1; INSERT INTO agents (id, name, key, enrolled_at, held) VALUES (1, 'a', x'00', 1, 1);
		INSERT INTO epochs (id, agent_id, ordinal, eid, ledger, received_at) VALUES (1, 1, 1, x'0000000000000000', x'', 7);
		INSERT INTO anchors (epoch_id, seq, boot, wall, synchronised, moved, max_error) VALUES (1, 1, 0, 0, 1, 0, 0)`)
	st := database(path).Open(t, time.Now(), 0)
	if a, err := st.Agent(t.Context(), "a"); err != nil || a.Held != 1 || !a.RevokedAt.IsZero() {
		t.Errorf("%+v, %v", a, err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	_ = database(path).Open(t, time.Now(), 0).Close()
}

// How fast frames go in, new and again.
func BenchmarkCommit(b *testing.B) {
	storetest.Bench(b, func(b *testing.B) store.Store {
		st, err := sqlite.Open(b.Context(), sqlite.Options{Path: filepath.Join(b.TempDir(), "cloud.db")})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = st.Close() })
		return st
	})
}

// A chart of one field over one day.
func BenchmarkValues(b *testing.B) {
	st, err := sqlite.Open(b.Context(), sqlite.Options{Path: filepath.Join(b.TempDir(), "cloud.db")})
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	storetest.BenchValues(b, st)
}
