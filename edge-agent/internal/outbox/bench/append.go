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

// wal is raft-wal as its users have it.
type wal struct {
	*raftwal.WAL
	index uint64
}

func (b *bench) raftWAL() (*wal, error) {
	dir, err := b.fresh("raft-wal")
	if err != nil {
		return nil, err
	}
	w, err := raftwal.Open(dir)
	return &wal{WAL: w}, err
}

// storeFor stores batches in a raft-wal for a while and returns records a second.
func (w *wal) storeFor(batch int, d time.Duration) (float64, error) {
	logs := make([]*raft.Log, batch)
	data := noise(batch)
	n, start := 0, time.Now()
	for time.Since(start) < d {
		for i := range logs {
			w.index++
			logs[i] = &raft.Log{Index: w.index, Term: 1, Data: data[i]}
		}
		if err := w.StoreLogs(logs); err != nil {
			return 0, err
		}
		n += batch
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

// slice is how long one side works before it is the other's turn: a machine is
// about as busy now as it was so long ago.
const slice = 100 * time.Millisecond

// compare alternates between two sides in slices and returns the median of each and
// of the ratios of neighbours.
func (b *bench) compare(one, two func(time.Duration) (float64, error)) (x, y, ratio float64, err error) {
	var xs, ys, rs []float64
	for i := range int(b.length*time.Duration(b.rounds)/slice) + 1 {
		first, second := one, two
		if i%2 == 1 {
			first, second = two, one
		}
		v, err := first(slice)
		if err != nil {
			return 0, 0, 0, err
		}
		w, err := second(slice)
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
		if err := b.besideRaftWAL(batch); err != nil {
			return err
		}
	}
	x, y, ratio, err := b.compare(b.producers, b.commitEach)
	if err != nil {
		return err
	}
	b.add("append, 64 producers: outbox / a commit a message", ratio, "×", "≥ 8", ratio >= 8, fmt.Sprintf("%.0f and %.0f records/s", x, y))
	return nil
}

func (b *bench) besideRaftWAL(batch int) (err error) {
	w, err := b.raftWAL()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	dir, err := b.fresh("outbox")
	if err != nil {
		return err
	}
	o, err := openBox(dir, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.stop()) }()
	if _, err := o.Append(context.Background(), drafts(1)...); err != nil {
		return err
	}
	x, y, ratio, err := b.compare(
		func(d time.Duration) (float64, error) { return appendFor(o, batch, d) },
		func(d time.Duration) (float64, error) { return w.storeFor(batch, d) })
	if err != nil {
		return err
	}
	b.add(fmt.Sprintf("append, batches of %d: outbox / raft-wal", batch), ratio, "×", "≥ 0.75", ratio >= 0.75,
		fmt.Sprintf("%.0f and %.0f records/s", x, y))
	return nil
}

const producers = 64

// together has n goroutines call one until the time is over, and returns calls a second.
func together(d time.Duration, n int, one func(i int) error) (float64, error) {
	var count atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, n)
	start := time.Now()
	for i := range n {
		wg.Go(func() {
			for time.Since(start) < d {
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
func (b *bench) producers(d time.Duration) (rate float64, err error) {
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
	return together(5*d, producers, func(i int) error {
		_, err := x.Append(context.Background(), ds[i])
		return err
	})
}

// commitEach does the same with one bbolt transaction a record.
func (b *bench) commitEach(d time.Duration) (rate float64, err error) {
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
	return together(5*d, producers, func(i int) error { return s.put(data[i : i+1]) })
}
