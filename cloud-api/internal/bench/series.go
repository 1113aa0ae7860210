package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// series measures a chart of one field over one day in 300 buckets, among the
// readings of ten agents with ten topics over ten days: a thousandth is read.
func (b *bench) series(ctx context.Context) (err error) {
	const agents, topics, days, size = 10, 10, 10, 5000
	c, _, stop, err := b.startPostgres(ctx, "series")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	devices, err := b.fleet(ctx, c, "series", agents)
	if err != nil {
		return err
	}
	begin := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	each := b.values / agents / size * size
	for _, d := range devices {
		d.boot, d.gap = begin, days*24*time.Hour/time.Duration(each)
		d.topic = func(seq uint64) string { return fmt.Sprintf("t/%d", seq%topics) }
	}
	if err := b.fill(ctx, c, devices, each/size, size); err != nil {
		return err
	}
	var took []float64
	for i := range 100 {
		from := begin.Add(time.Duration(i%(days-1)) * 24 * time.Hour)
		q := url.Values{
			"agent": {devices[i%agents].name}, "topic": {fmt.Sprintf("t/%d", i*7%topics)}, "field": {"/pressure"}, "buckets": {"300"},
			"from": {from.Format(time.RFC3339)}, "to": {from.Add(24 * time.Hour).Format(time.RFC3339)},
		}
		start := time.Now()
		text, err := c.get("/v1/series?" + q.Encode())
		took = append(took, float64(time.Since(start).Microseconds())/1000)
		if err != nil {
			return err
		}
		var answer struct{ Buckets []json.RawMessage }
		if err := json.Unmarshal(text, &answer); err != nil || len(answer.Buckets) < 290 {
			return fmt.Errorf("%d buckets: %.300s, %w", len(answer.Buckets), text, err)
		}
	}
	s := sorted(took)
	b.add(fmt.Sprintf("PostgreSQL: a day of one field among %g M readings, median", float64(b.values)/1e6), []float64{median(s)}, "ms", goal{})
	b.add("the same, 95th percentile of 100", []float64{s[len(s)*95/100]}, "ms", goal{most: 300})
	return nil
}

// fill delivers frames as fast as they can be made.
func (b *bench) fill(ctx context.Context, c *cloud, devices []*device, frames, size int) error {
	events := make(chan []byte, 4)
	made := make(chan error, 1)
	go func() {
		defer close(events)
		for range frames {
			for _, d := range devices {
				e, err := d.next(size)
				if err != nil {
					made <- err
					return
				}
				events <- e
			}
		}
		made <- nil
	}()
	handed := make(chan error, 8)
	for range cap(handed) {
		go func() {
			var err error
			for e := range events {
				err = errors.Join(err, c.deliver(ctx, e))
			}
			handed <- err
		}()
	}
	err := <-made
	for range cap(handed) {
		err = errors.Join(err, <-handed)
	}
	return err
}

func sorted(v []float64) []float64 { return slices.Sorted(slices.Values(v)) }

// figureLine is what the browser's test says.
var figureLine = regexp.MustCompile(`figure: (\d+) bytes compressed, rows after (\d+) ms`)

// page measures the dashboard in a real Chromium, by the test that does so.
func (b *bench) page(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-run", "InChromium", "-v", "./internal/dashboard")
	cmd.Env = append(os.Environ(), "HOLDFAST_SCREENSHOTS="+filepath.Join(b.work))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	m := figureLine.FindSubmatch(out)
	if m == nil {
		fmt.Println("  the dashboard is not measured: there is no chromium, node or npm")
		return nil
	}
	for i, f := range []struct {
		name, unit string
		by, most   float64
	}{{"dashboard, compressed", "kB", 1000, 150}, {"dashboard: rows are shown after", "ms", 1, 1000}} {
		n, err := strconv.ParseFloat(string(m[i+1]), 64)
		if err != nil {
			return err
		}
		b.add(f.name, []float64{n / f.by}, f.unit, goal{most: f.most})
	}
	return nil
}
