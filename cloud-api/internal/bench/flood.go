package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/hostile"
)

const (
	// floodRate is a little more than the goal: what is late is made up for.
	floodRate = 1050
	floodGoal = 1000
	floodTime = 20 // seconds
	floodRows = 100
)

// flood measures broken and forged events beside good frames, on both databases.
func (b *bench) flood(ctx context.Context) error {
	c, err := b.start(ctx, "flood-sqlite", fmt.Sprintf("{sqlite: {path: %q}}", filepath.Join(b.work, "flood-sqlite", "cloud.db")))
	if err != nil {
		return err
	}
	if err := errors.Join(b.floodOn(ctx, c, "SQLite"), c.stop()); err != nil {
		return err
	}
	c, _, stop, err := b.startPostgres(ctx, "flood-postgres")
	if err != nil {
		return err
	}
	return errors.Join(b.floodOn(ctx, c, "PostgreSQL"), stop())
}

func (b *bench) floodOn(ctx context.Context, c *cloud, name string) error {
	devices, err := b.fleet(ctx, c, "flood", 1)
	if err != nil {
		return err
	}
	d := devices[0]
	good, err := d.frame(1)
	if err != nil {
		return err
	}
	events, err := hostile.Events(d.name, good)
	if err != nil {
		return err
	}
	d.seq = 0 // the frame was a model of bad ones alone
	type outcome struct {
		hostile.Flood
		err error
	}
	ended := make(chan outcome, 1)
	go func() {
		f, err := hostile.Send(ctx, strings.TrimPrefix(c.app, "http://"), events, floodRate, floodRate*floodTime)
		ended <- outcome{f, err}
	}()
	var took []float64
	for {
		select {
		case got := <-ended:
			if got.err != nil {
				return got.err
			}
			if got.Taken != got.Sent {
				return fmt.Errorf("%d of %d bad events were taken", got.Taken, got.Sent)
			}
			return b.flooded(c, name, got.Flood, took, d)
		default:
		}
		event, err := d.next(floodRows)
		if err != nil {
			return err
		}
		start := time.Now()
		if err := c.deliver(ctx, event); err != nil {
			return err
		}
		took = append(took, float64(time.Since(start).Microseconds())/1000)
	}
}

// flooded makes sure that every good frame is there, and adds the figures.
func (b *bench) flooded(c *cloud, name string, f hostile.Flood, took []float64, d *device) error {
	held, err := c.held()
	if err != nil {
		return err
	}
	if held != int(d.seq) {
		return fmt.Errorf("%d records are held, %d were delivered: the figures mean nothing", held, d.seq)
	}
	s := sorted(took)
	b.add(name+": bad events a second beside good frames", []float64{f.Rate()}, "events/s", goal{least: floodGoal})
	b.add(name+": good frames of 100 meanwhile, one at a time", []float64{float64(len(took)) / f.Took.Seconds()}, "frames/s", goal{})
	b.add(name+": a good frame meanwhile, 95th percentile", []float64{s[len(s)*95/100]}, "ms", goal{})
	c.mu.Lock()
	defer c.mu.Unlock()
	b.add(name+": resident memory under bad events, highest", []float64{float64(c.maxAll) / 1e6}, "MB", goal{most: 150})
	return nil
}
