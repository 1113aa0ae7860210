package postgres_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store/postgres"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store/postgres/pgtest"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store/storetest"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// server is shared by the tests that do not end it or need settings of its own.
var (
	server = sync.OnceValues(func() (*pgtest.Server, error) {
		s, err := pgtest.Start()
		shared = s
		return s, err
	})
	shared *pgtest.Server // nil until a test asked for it
)

func TestMain(m *testing.M) {
	code := m.Run()
	if shared != nil {
		if err := shared.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// received is when the frames of these tests arrive.
var received = time.Date(2026, 5, 4, 10, 0, 0, 0, time.UTC)

type database string

func (d database) Open(t *testing.T, now time.Time, retention time.Duration) store.Store {
	t.Helper()
	return open(t, string(d), now, retention)
}

func open(t testing.TB, dsn string, now time.Time, retention time.Duration) *postgres.Store {
	t.Helper()
	st, err := postgres.Open(context.Background(), postgres.Options{
		DSN: dsn, Samples: storetest.Samples, Now: func() time.Time { return now }, Retention: retention,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return st
}

// fresh makes a database on the shared server.
func fresh(t testing.TB) string {
	t.Helper()
	s, err := server()
	pgtest.Check(t, err)
	return on(t, s)
}

// on makes a database on a server.
func on(t testing.TB, s *pgtest.Server) string {
	t.Helper()
	dsn, err := s.Database()
	if err != nil {
		t.Fatal(err)
	}
	return dsn
}

// PostgreSQL behaves as every store does.
func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Database { return database(fresh(t)) })
}

// query asks the database directly.
func query(t *testing.T, dsn, sql string, into ...any) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.QueryRow(t.Context(), sql).Scan(into...); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func enrol(t testing.TB, st store.Store, name string) {
	t.Helper()
	ctx := context.Background()
	tok := store.Token{ID: name, Agent: name, Uses: 1, Expires: received.Add(time.Hour)}
	if err := errors.Join(st.CreateToken(ctx, tok), st.Enrol(ctx, name, name, make(ed25519.PublicKey, 32), received)); err != nil {
		t.Fatal(err)
	}
}

func frame(seq uint64, at time.Time) store.Frame {
	return store.Frame{
		Agent: "a", Epoch: telemetry.Epoch{Ordinal: 1}, First: seq, Last: seq, Received: at,
		Records: []telemetry.Record{{Seq: seq, Kind: telemetry.KindReading, Reading: &telemetry.Reading{Topic: "t", Payload: []byte("x")}}},
	}
}

// Readings lie in the partition of the day they were received; a day that has
// none goes to the default partition, and that is said.
func TestReadingsArePartitionedByDay(t *testing.T) {
	dsn := fresh(t)
	st := open(t, dsn, received, 0)
	enrol(t, st, "a")
	for i, at := range []time.Time{received.Add(-24 * time.Hour), received, received.Add(72 * time.Hour)} {
		if _, err := st.Commit(t.Context(), frame(uint64(i+1), at)); err != nil {
			t.Fatal(err)
		}
	}
	if notes, err := st.Notes(t.Context()); err != nil || len(notes) != 0 {
		t.Errorf("%v, %v", notes, err)
	}
	var days int
	query(t, dsn, "SELECT count(DISTINCT tableoid) FROM readings WHERE tableoid <> 'readings_default'::regclass", &days)
	if days != 3 {
		t.Errorf("readings in %d partitions", days)
	}
	if _, err := st.Commit(t.Context(), frame(9, received.Add(1000*time.Hour))); err != nil {
		t.Fatal(err)
	}
	if notes, err := st.Notes(t.Context()); err != nil || len(notes) != 1 || !strings.Contains(notes[0], "default partition") {
		t.Errorf("%v, %v", notes, err)
	}
	if p, err := st.Readings(t.Context(), store.Query{Agent: "a", Limit: 10}); err != nil || len(p.Readings) != 4 {
		t.Errorf("%d readings, %v", len(p.Readings), err)
	}
}

// Maintenance makes the partitions of the days to come, also when several
// replicas do it at once.
func TestPartitionsAreMadeAhead(t *testing.T) {
	dsn := fresh(t)
	now := received
	st, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	now = now.Add(48 * time.Hour)
	ended := make(chan error)
	for range 4 {
		go func() { ended <- st.Maintain(context.Background()) }()
	}
	for range 4 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	var n int
	query(t, dsn, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'readings'::regclass", &n)
	if n != 8 { // 3 May to 9 May, and the default
		t.Errorf("%d partitions", n)
	}
}

// Replicas that start together over an empty database all start.
func TestMigrationsRunOnce(t *testing.T) {
	dsn := fresh(t)
	ended := make(chan error)
	for range 4 {
		go func() {
			st, err := postgres.Open(context.Background(), postgres.Options{DSN: dsn})
			if err == nil {
				err = st.Close()
			}
			ended <- err
		}()
	}
	for range 4 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// A database of a newer version, a server that does not sync, and a connection
// string that is none are refused; the password is in no error.
func TestOpenRefuses(t *testing.T) {
	dsn := fresh(t)
	_ = open(t, dsn, received, 0).Close()
	var n int
	query(t, dsn, "INSERT INTO holdfast_schema (version) VALUES (99) RETURNING version", &n)
	if _, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn}); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("newer schema: %v", err)
	}
	if _, err := postgres.Open(t.Context(), postgres.Options{DSN: "postgres://user:secret@host:port/x"}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("broken string: %v", err)
	}
	if _, err := postgres.Open(t.Context(), postgres.Options{DSN: "host=/does/not/exist password=secret"}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("no server: %v", err)
	}
	unsafe := pgtest.Require(t, "fsync=off")
	if _, err := postgres.Open(t.Context(), postgres.Options{DSN: on(t, unsafe)}); !errors.Is(err, postgres.ErrUnsafe) {
		t.Errorf("fsync=off: %v", err)
	}
}

// A server told to answer before its disk has the data is told otherwise for
// our connections. The control is a connection that is not: it loses what was
// answered.
func TestCommitWaitsForTheDisk(t *testing.T) {
	s := pgtest.Require(t, "synchronous_commit=off", "wal_writer_delay=10s")
	dsn := on(t, s)
	st := open(t, dsn, received, 0)
	enrol(t, st, "a")
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), "CREATE TABLE control (n int)"); err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= 20; seq++ {
		if _, err := st.Commit(t.Context(), frame(seq, received)); err != nil {
			t.Fatal(err)
		}
	}
	// Enough to fill some pages of the log: the first full one wakes its writer,
	// which syncs once and then not for ten seconds.
	const answered = 500
	for range answered {
		if _, err := c.Exec(t.Context(), "INSERT INTO control VALUES (1)"); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.Kill(), s.Run()); err != nil {
		t.Fatal(err)
	}
	p, err := st.Readings(t.Context(), store.Query{Agent: "a", Limit: 100})
	for i := 0; i < 100 && errors.Is(err, store.ErrUnavailable); i++ {
		time.Sleep(50 * time.Millisecond)
		p, err = st.Readings(t.Context(), store.Query{Agent: "a", Limit: 100})
	}
	if err != nil || len(p.Readings) != 20 {
		t.Errorf("%d of 20 answered readings after the crash, %v", len(p.Readings), err)
	}
	var control int
	query(t, dsn, "SELECT count(*) FROM control", &control)
	if control == answered {
		t.Error("the control lost nothing: this test proves nothing")
	}
}

// While the server is away every commit says that it is unavailable, and the
// same store goes on when it is back.
func TestServerAwayForAWhile(t *testing.T) {
	s := pgtest.Require(t)
	st := open(t, on(t, s), received, 0)
	enrol(t, st, "a")
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Commit(t.Context(), frame(1, received)); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("while away: %v", err)
	}
	if err := st.Ping(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("ping while away: %v", err)
	}
	if err := s.Run(); err != nil {
		t.Fatal(err)
	}
	var err error
	for range 100 {
		if _, err = st.Commit(t.Context(), frame(1, received)); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		t.Error(err)
	}
}

// A database that is read-only, as a standby is, is not usable.
func TestStandbyIsNotReady(t *testing.T) {
	dsn := fresh(t)
	st := open(t, dsn, received, 0)
	if err := st.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	standby, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn + " options='-c default_transaction_read_only=on'"})
	if err == nil {
		defer standby.Close()
		err = standby.Ping(t.Context())
	}
	if err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("%v", err)
	}
}

// How fast frames go in, new and again.
func BenchmarkCommit(b *testing.B) {
	storetest.Bench(b, func(b *testing.B) store.Store { return open(b, fresh(b), received, 0) })
}

// How fast plain COPY of the same rows is, one transaction for each thousand,
// into a table with a primary key and nothing else: what ingest is measured by.
func BenchmarkPlainCopy(b *testing.B) {
	dsn := fresh(b)
	for _, rows := range []int{1000, 5000} {
		b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) {
			ctx := context.Background()
			c, err := pgx.Connect(ctx, dsn)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close(ctx)
			_, err = c.Exec(ctx, `DROP TABLE IF EXISTS plain; CREATE TABLE plain (epoch_id bigint, seq bigint, topic_id bigint, flags smallint, boot bigint,
				recorded bigint, corrected bigint, received bigint, payload bytea, PRIMARY KEY (epoch_id, seq))`)
			if err != nil {
				b.Fatal(err)
			}
			payload := []byte(`{"ts":1780000000000,"temperature":20.37,"humidity":48.1,"pressure":1003.2,"status":"ok","sensor":"s-007","unit":"C"}`)
			seq := int64(0)
			for b.Loop() {
				n := 0
				_, err := c.CopyFrom(ctx, pgx.Identifier{"plain"}, []string{"epoch_id", "seq", "topic_id", "flags", "boot", "recorded", "corrected", "received", "payload"},
					pgx.CopyFromFunc(func() ([]any, error) {
						if n++; n > rows {
							return nil, nil
						}
						seq++
						return []any{int64(1), seq, seq % 20, int16(1), seq, seq, seq, seq, payload}, nil
					}))
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*rows)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// A chart of one field over one day.
func BenchmarkValues(b *testing.B) {
	now := received
	st, err := postgres.Open(context.Background(), postgres.Options{DSN: fresh(b), Now: func() time.Time { return now }})
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	for range 4 { // partitions for all of its days
		now = now.Add(72 * time.Hour)
		if err := st.Maintain(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	storetest.BenchValues(b, st)
}
