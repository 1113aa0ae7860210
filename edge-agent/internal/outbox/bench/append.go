package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	raftwal "github.com/hashicorp/raft-wal"
	bolt "go.etcd.io/bbolt"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/outbox"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

const payload = 256

// box is an outbox that runs.
type box struct {
	*outbox.Outbox
	cancel context.CancelFunc
	ended  chan error
}

func openBox(dir string, change func(*outbox.Options)) (*box, error) {
	o := outbox.Options{Dir: dir, Agent: "bench", MaxBytes: 8 << 30, Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&o)
	}
	ob, err := outbox.Open(o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	x := &box{Outbox: ob, cancel: cancel, ended: make(chan error, 1)}
	go func() { x.ended <- ob.Run(ctx) }()
	return x, nil
}

func (x *box) stop() error {
	x.cancel()
	return errors.Join(<-x.ended, x.Close())
}

// noise is payloads that do not compress, as small as a reading.
func noise(n int) [][]byte {
	out := make([][]byte, n)
	s := uint64(88172645463325252)
	for i := range out {
		out[i] = make([]byte, payload)
		for j := 0; j < payload; j += 8 {
			s ^= s << 13
			s ^= s >> 7
			s ^= s << 17
			binary.LittleEndian.PutUint64(out[i][j:], s)
		}
	}
	return out
}

func drafts(n int) []outbox.Draft {
	out := make([]outbox.Draft, n)
	for i, p := range noise(n) {
		out[i] = outbox.Draft{Reading: &telemetry.Reading{Topic: "bench/temperature", QoS: 1, Payload: p}}
	}
	return out
}

// appendFor appends batches to an outbox for a while and returns records a second.
func appendFor(x *box, batch int, d time.Duration) (float64, error) {
	ds := drafts(batch)
	n, start := 0, time.Now()
	for time.Since(start) < d {
		if _, err := x.Append(context.Background(), ds...); err != nil {
			return 0, err
		}
		n += batch
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

func (b *bench) ours(batch int) (rate float64, err error) {
	dir, err := b.fresh("outbox")
	if err != nil {
		return 0, err
	}
	x, err := openBox(dir, nil)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, x.stop()) }()
	if _, err := x.Append(context.Background(), drafts(1)...); err != nil {
		return 0, err
	}
	return appendFor(x, batch, b.length)
}

func (b *bench) raftWAL(batch int) (rate float64, err error) {
	dir, err := b.fresh("raft-wal")
	if err != nil {
		return 0, err
	}
	w, err := raftwal.Open(dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	logs := make([]*raft.Log, batch)
	data := noise(batch)
	index := uint64(0)
	n, start := 0, time.Now()
	for time.Since(start) < b.length {
		for i := range logs {
			index++
			logs[i] = &raft.Log{Index: index, Term: 1, Data: data[i]}
		}
		if err := w.StoreLogs(logs); err != nil {
			return 0, err
		}
		n += batch
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

// compare alternates between two sides and returns the median of each and of
// their ratios.
func (b *bench) compare(one, two func() (float64, error)) (x, y, ratio float64, err error) {
	var xs, ys, rs []float64
	for i := range b.rounds {
		first, second := one, two
		if i%2 == 1 {
			first, second = two, one
		}
		v, err := first()
		if err != nil {
			return 0, 0, 0, err
		}
		w, err := second()
		if err != nil {
			return 0, 0, 0, err
		}
		if i%2 == 1 {
			v, w = w, v
		}
		xs, ys, rs = append(xs, v), append(ys, w), append(rs, v/w)
	}
	return median(xs), median(ys), median(rs), nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

func (b *bench) append() error {
	for _, batch := range []int{64, 1024} {
		x, y, ratio, err := b.compare(func() (float64, error) { return b.ours(batch) }, func() (float64, error) { return b.raftWAL(batch) })
		if err != nil {
			return err
		}
		b.add(fmt.Sprintf("append, batches of %d: outbox / raft-wal", batch), ratio, "×", "≥ 0.75", ratio >= 0.75,
			fmt.Sprintf("%.0f and %.0f records/s", x, y))
	}
	x, y, ratio, err := b.compare(b.producers, b.commitEach)
	if err != nil {
		return err
	}
	b.add("append, 64 producers: outbox / a commit a message", ratio, "×", "≥ 8", ratio >= 8, fmt.Sprintf("%.0f and %.0f records/s", x, y))
	return nil
}

const producers = 64

// together has n goroutines call one until the time is over, and returns calls a second.
func (b *bench) together(n int, one func(i int) error) (float64, error) {
	var count atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, n)
	start := time.Now()
	for i := range n {
		wg.Go(func() {
			for time.Since(start) < b.length {
				if err := one(i); err != nil {
					errs <- err
					return
				}
				count.Add(1)
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	select {
	case err := <-errs:
		return 0, err
	default:
	}
	return float64(count.Load()) / took.Seconds(), nil
}

// producers appends one record at a time from each of 64 goroutines.
func (b *bench) producers() (rate float64, err error) {
	dir, err := b.fresh("outbox")
	if err != nil {
		return 0, err
	}
	x, err := openBox(dir, nil)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, x.stop()) }()
	ds := drafts(producers)
	return b.together(producers, func(i int) error {
		_, err := x.Append(context.Background(), ds[i])
		return err
	})
}

// commitEach does the same with one bbolt transaction a record.
func (b *bench) commitEach() (rate float64, err error) {
	dir, err := b.fresh("bbolt")
	if err != nil {
		return 0, err
	}
	s, err := openPlain(dir, &bolt.Options{PageSize: 4096, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.db.Close()) }()
	data := noise(producers)
	return b.together(producers, func(i int) error { return s.put(data[i : i+1]) })
}
