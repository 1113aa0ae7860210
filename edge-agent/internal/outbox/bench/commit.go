package main

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	turns     = 60 // of each side; they alternate, so that all meet the same machine
	perTurn   = 20 // commits
	batchHere = 64
)

// commit measures what one commit of 64 records takes, beside what it is made of: the
// first decile is that of a disk which nobody else uses just then.
func (b *bench) commit() (err error) {
	sides := []struct {
		name  string
		open  side
		once  func() error
		times []float64
	}{
		{name: "raft-wal: one write, one fsync", open: b.raftWAL(batchHere)},
		{name: "two fdatasyncs, no database", open: b.bare(batchHere, false)},
		{name: "outbox", open: b.ours(batchHere)},
		{name: "two fdatasyncs, no database, blocks written before", open: b.writtenBefore},
	}
	for i := range sides {
		s := &sides[i]
		once, end, openErr := s.open()
		if openErr != nil {
			return openErr
		}
		defer func() { err = errors.Join(err, end()) }()
		s.once = once
	}
	for turn := range turns {
		b.screen.say("commits of %d: turn %d of %d", batchHere, turn+1, turns)
		for i := range sides {
			s := &sides[(i+turn)%len(sides)]
			for range perTurn {
				start := time.Now()
				if err := s.once(); err != nil {
					return err
				}
				s.times = append(s.times, float64(time.Since(start).Microseconds()))
			}
		}
	}
	for _, s := range sides {
		slices.Sort(s.times)
		b.add(fmt.Sprintf("a commit of %d, first decile: %s", batchHere, s.name), []float64{s.times[len(s.times)/10]}, "µs", nil,
			fmt.Sprintf("median %.0f µs", median(s.times)))
	}
	return nil
}

// writtenBefore is bare in a folder beside bare's.
func (b *bench) writtenBefore() (once, end func() error, err error) {
	beside := *b
	if beside.dir, err = b.fresh("written"); err != nil {
		return nil, nil, err
	}
	return beside.bare(batchHere, true)()
}
