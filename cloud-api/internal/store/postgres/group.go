package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// The frames of one agent follow each other, since its row is their lock. Those
// that come while one is being stored are stored together after it: one sync of
// the server's disk and one exchange of statements serves all of them.
const (
	maxGroup      = 16      // frames of one transaction
	maxGroupBytes = 4 << 20 // payloads of one transaction, beyond its first frame
)

// Commit implements store.Store.
func (s *Store) Commit(ctx context.Context, f store.Frame) (store.Result, error) {
	need, err := store.Needs(&f)
	if err != nil {
		return store.Result{}, err
	}
	w := &waiter{frame: &f, need: need, bytes: size(&f), turn: make(chan turn, 1)}
	t := turn{group: []*waiter{w}}
	if s.lines.join(w) {
		if t, err = s.lines.wait(ctx, w); err != nil {
			return store.Result{}, err
		}
	}
	switch {
	case t.group != nil:
		defer s.lines.pass(f.Agent)
		return s.lead(ctx, t.group)
	case t.alone:
		return s.one(ctx, w)
	}
	return t.result, t.err
}

// one stores a frame in a transaction of its own.
func (s *Store) one(ctx context.Context, w *waiter) (store.Result, error) {
	results, err := s.commitAll(ctx, []*store.Frame{w.frame}, w.need)
	if err != nil {
		return store.Result{}, err
	}
	return results[0], nil
}

// lead stores a group, whose first frame is the caller's, and tells the others.
// What may be one frame's fault has each stored by itself.
func (s *Store) lead(ctx context.Context, group []*waiter) (store.Result, error) {
	if len(group) == 1 {
		return s.one(ctx, group[0])
	}
	frames := make([]*store.Frame, len(group))
	var need []telemetry.Epoch
	for i, w := range group {
		frames[i] = w.frame
		need = append(need, w.need...)
	}
	slices.SortFunc(need, telemetry.Epoch.Compare)
	results, err := s.commitAll(ctx, frames, slices.Compact(need))
	for i, w := range group[1:] {
		switch {
		case err == nil:
			w.turn <- turn{result: results[i+1]}
		case errors.Is(err, store.ErrUnavailable) && ctx.Err() == nil, errors.Is(err, store.ErrRevoked), errors.Is(err, store.ErrNotFound):
			w.turn <- turn{err: err}
		default:
			w.turn <- turn{alone: true}
		}
	}
	switch {
	case err == nil:
		return results[0], nil
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrRevoked), errors.Is(err, store.ErrNotFound):
		return store.Result{}, err
	}
	return s.one(ctx, group[0])
}

// waiter is a frame that waits for its agent's row.
type waiter struct {
	frame *store.Frame
	need  []telemetry.Epoch
	bytes int
	turn  chan turn // capacity 1: told once
}

// turn is what a waiter is told: to lead a group, to go alone, or how it went.
type turn struct {
	group  []*waiter // the waiter itself first
	alone  bool
	result store.Result
	err    error
}

// lines are the waiters by agent. An agent with a line, be it empty, has a leader.
type lines struct {
	mu sync.Mutex
	of map[string][]*waiter
}

// join puts w into its agent's line. It returns false when there is none: then w
// leads, and has to pass the lead on.
func (l *lines) join(w *waiter) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	line, ok := l.of[w.frame.Agent]
	if ok {
		l.of[w.frame.Agent] = append(line, w)
		return true
	}
	if l.of == nil {
		l.of = map[string][]*waiter{}
	}
	l.of[w.frame.Agent] = nil
	return false
}

// wait returns w's turn. When ctx ends first w leaves the line; a frame that is
// being stored already may be stored all the same.
func (l *lines) wait(ctx context.Context, w *waiter) (turn, error) {
	select {
	case t := <-w.turn:
		return t, nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	line := l.of[w.frame.Agent]
	if i := slices.Index(line, w); i >= 0 {
		l.of[w.frame.Agent] = slices.Delete(line, i, i+1)
	}
	l.mu.Unlock()
	select {
	case t := <-w.turn: // it was told at the same moment; a lead must not be dropped
		return t, nil
	default:
		return turn{}, fmt.Errorf("%w: %w", store.ErrUnavailable, ctx.Err())
	}
}

// pass gives the lead of an agent to its first waiter, with those that can go
// along, or ends the line.
func (l *lines) pass(agent string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := l.of[agent]
	if len(line) == 0 {
		delete(l.of, agent)
		return
	}
	n, bytes := 1, 0
	if plain(line[0].frame) {
		for n < min(len(line), maxGroup) && plain(line[n].frame) && bytes+line[n].bytes <= maxGroupBytes {
			bytes += line[n].bytes
			n++
		}
	}
	group := slices.Clone(line[:n])
	l.of[agent] = slices.Delete(line, 0, n)
	group[0].turn <- turn{group: group}
}

// plain reports whether a frame can share a transaction: nothing in it changes
// what the database has to be asked for the next one.
func plain(f *store.Frame) bool {
	if f.Raw != nil || store.Begins(f) {
		return false
	}
	return !slices.ContainsFunc(f.Records, func(r telemetry.Record) bool { return r.Anchor != nil })
}

func size(f *store.Frame) (n int) {
	for i := range f.Records {
		if r := f.Records[i].Reading; r != nil {
			n += len(r.Payload)
		}
	}
	return n
}
