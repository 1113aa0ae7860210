package sqlite_test

import (
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
