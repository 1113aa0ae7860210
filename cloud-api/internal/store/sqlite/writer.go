package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
)

const (
	// maxBatch bounds the jobs of one transaction: a sync is shared by so many
	// that it no longer matters, and a failure costs no more than this.
	maxBatch = 32
	// queueLength bounds the jobs that wait; beyond it callers wait to queue.
	queueLength = 64
	// checkpointPages lets the log grow to 64 MiB before it is copied back: at
	// full speed a page is then copied once for several times it was written.
	checkpointPages = 16384
)

// job is one unit of work: all of it commits, or none.
type job struct {
	run  func(*session) error
	done chan error
}

// writer owns the one connection that writes. It puts whatever queued while the
// last transaction was syncing into the next.
type writer struct {
	db   *sql.DB
	ses  *session
	jobs chan job

	mu     sync.RWMutex // guards closed; held for reading while a job is queued
	closed bool
	ended  chan struct{}
}

func openWriter(ctx context.Context, o Options) (*writer, error) {
	db, err := sql.Open("sqlite", dsn(o.Path, "cache_size(-32768)", "temp_store(MEMORY)", fmt.Sprintf("wal_autocheckpoint(%d)", checkpointPages), "journal_size_limit(67108864)"))
	if err != nil {
		return nil, err
	}
	conn, err := db.Conn(ctx)
	if err == nil {
		err = migrate(ctx, conn)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	w := &writer{
		db: db, jobs: make(chan job, queueLength), ended: make(chan struct{}),
		ses: &session{conn: conn, opt: o, stmts: map[string]*sql.Stmt{}, topics: map[topicKey]int64{}},
	}
	go w.loop()
	return w, nil
}

// do runs f in a transaction and returns after its commit is on the disk. When
// ctx ends first the job may still be done.
func (w *writer) do(ctx context.Context, f func(*session) error) error {
	j := job{run: f, done: make(chan error, 1)}
	if err := w.queue(ctx, j); err != nil {
		return err
	}
	select {
	case err := <-j.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", store.ErrUnavailable, ctx.Err())
	}
}

func (w *writer) queue(ctx context.Context, j job) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed {
		return fmt.Errorf("%w: closed", store.ErrUnavailable)
	}
	select {
	case w.jobs <- j:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", store.ErrUnavailable, ctx.Err())
	}
}

// stop refuses new jobs, finishes those queued and closes the connection.
func (w *writer) stop() error {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.jobs)
	}
	w.mu.Unlock()
	<-w.ended
	return errors.Join(w.ses.close(), w.db.Close())
}

func (w *writer) loop() {
	defer close(w.ended)
	for j := range w.jobs {
		batch := []job{j}
	more:
		for len(batch) < maxBatch {
			select {
			case j, ok := <-w.jobs:
				if !ok {
					break more
				}
				batch = append(batch, j)
			default:
				break more
			}
		}
		w.commit(batch)
	}
}

// commit runs the batch in one transaction. When a job fails all of it is
// rolled back and each job is run alone, so that the failing one harms no other.
func (w *writer) commit(batch []job) {
	err := w.ses.transact(func() error {
		for _, j := range batch {
			if err := j.run(w.ses); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil || len(batch) == 1 {
		for _, j := range batch {
			j.done <- err
		}
		return
	}
	for _, j := range batch {
		j.done <- w.ses.transact(func() error { return j.run(w.ses) })
	}
}

// session is the writing connection with its prepared statements and what it
// remembers of rows that never change. Only the writer's goroutine uses it.
type session struct {
	conn   *sql.Conn
	opt    Options
	stmts  map[string]*sql.Stmt
	topics map[topicKey]int64
}

type topicKey struct {
	agent int64
	name  string
}

// transact runs f between BEGIN and COMMIT, and rolls back when either fails.
func (s *session) transact(f func() error) (err error) {
	defer func() {
		if err != nil {
			_, _ = s.conn.ExecContext(context.Background(), "ROLLBACK") // fails when there is nothing to roll back
			clear(s.topics)                                             // some may never have been committed
		}
	}()
	if _, err := s.exec("BEGIN IMMEDIATE"); err != nil {
		return unavailable(err)
	}
	if err := f(); err != nil {
		return err
	}
	if _, err := s.exec("COMMIT"); err != nil {
		return unavailable(err)
	}
	return nil
}

func (s *session) prepare(query string) (*sql.Stmt, error) {
	if st, ok := s.stmts[query]; ok {
		return st, nil
	}
	st, err := s.conn.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, err
	}
	s.stmts[query] = st
	return st, nil
}

func (s *session) exec(query string, args ...any) (sql.Result, error) {
	st, err := s.prepare(query)
	if err != nil {
		return nil, err
	}
	return st.Exec(args...)
}

func (s *session) query(query string, args ...any) (*sql.Rows, error) {
	st, err := s.prepare(query)
	if err != nil {
		return nil, err
	}
	return st.Query(args...)
}

// row is a query that ends with one row.
func (s *session) row(query string, args []any, into ...any) error {
	st, err := s.prepare(query)
	if err != nil {
		return err
	}
	return st.QueryRow(args...).Scan(into...)
}

func (s *session) close() error {
	var errs []error
	for _, st := range s.stmts {
		errs = append(errs, st.Close())
	}
	return errors.Join(append(errs, s.conn.Close())...)
}
