package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	raftwal "github.com/hashicorp/raft-wal"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

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

// side opens one of those that are compared, in a folder of its own, and returns
// what appends one batch, durably, and what ends it.
type side func() (once, end func() error, err error)

func (b *bench) ours(batch int) side {
	return func() (once, end func() error, err error) {
		dir, err := b.fresh("outbox")
		if err != nil {
			return nil, nil, err
		}
		x, err := openBox(dir, nil)
		if err != nil {
			return nil, nil, err
		}
		ds := drafts(batch)
		once = func() error { _, err := x.Append(context.Background(), ds...); return err }
		return once, x.stop, nil
	}
}

func (b *bench) raftWAL(batch int) side {
	return func() (once, end func() error, err error) {
		dir, err := b.fresh("raft-wal")
		if err != nil {
			return nil, nil, err
		}
		w, err := raftwal.Open(dir)
		if err != nil {
			return nil, nil, err
		}
		logs, data, index := make([]*raft.Log, batch), noise(batch), uint64(0)
		once = func() error {
			for i := range logs {
				index++
				logs[i] = &raft.Log{Index: index, Term: 1, Data: data[i]}
			}
			return w.StoreLogs(logs)
		}
		return once, w.Close, nil
	}
}

// bare does only what a commit of bbolt cannot do without: it appends the bytes to
// a file that is set aside, syncs, writes one page at its front, and syncs. Where
// all of the file was written before, the file system has nothing to note of it.
func (b *bench) bare(batch int, written bool) side {
	return func() (once, end func() error, err error) {
		dir, err := b.fresh("bare")
		if err != nil {
			return nil, nil, err
		}
		const size = 64 << 20
		f, err := os.Create(filepath.Join(dir, "file"))
		if err != nil {
			return nil, nil, err
		}
		if err := setAside(f, size, written); err != nil {
			return nil, nil, errors.Join(err, f.Close())
		}
		page, data := make([]byte, 4096), bytes.Join(noise(batch), nil)
		at := int64(len(page))
		once = func() error {
			if at+int64(len(data)) > size {
				at = int64(len(page)) // 64 MiB a second and more: from the front again
			}
			for _, w := range []struct {
				data []byte
				at   int64
			}{{data, at}, {page, 0}} {
				if _, err := f.WriteAt(w.data, w.at); err != nil {
					return err
				}
				if err := unix.Fdatasync(int(f.Fd())); err != nil {
					return err
				}
			}
			at += int64(len(data)+4095) &^ 4095
			return nil
		}
		return once, f.Close, nil
	}
}

func setAside(f *os.File, size int64, written bool) error {
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		return err
	}
	for at := int64(0); written && at < size; at += 1 << 20 {
		if _, err := f.WriteAt(make([]byte, 1<<20), at); err != nil {
			return err
		}
	}
	return f.Sync()
}

// rate returns how many records a second a side appends, after the first batch.
func (b *bench) rate(batch int, open side) func() (float64, error) {
	return func() (rate float64, err error) {
		once, end, err := open()
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, end()) }()
		if err := once(); err != nil {
			return 0, err
		}
		n, start := 0, time.Now()
		for ; time.Since(start) < b.length; n += batch {
			if err := once(); err != nil {
				return 0, err
			}
		}
		return float64(n) / time.Since(start).Seconds(), nil
	}
}

// compare alternates between two sides, and returns the figures of each and the
// ratios of each pair.
func (b *bench) compare(what string, one, two func() (float64, error)) (xs, ys, ratios []float64, err error) {
	for i := range b.rounds {
		b.screen.say("%s: round %d of %d", what, i+1, b.rounds)
		first, second := one, two
		if i%2 == 1 {
			first, second = two, one
		}
		v, err := first()
		if err != nil {
			return nil, nil, nil, err
		}
		w, err := second()
		if err != nil {
			return nil, nil, nil, err
		}
		if i%2 == 1 {
			v, w = w, v
		}
		xs, ys, ratios = append(xs, v), append(ys, w), append(ratios, v/w)
	}
	return xs, ys, ratios, nil
}

// beside adds the ratio of two rates.
func (b *bench) beside(name string, g *goal, one, two func() (float64, error)) error {
	xs, ys, ratios, err := b.compare(name, one, two)
	if err == nil {
		b.add(name, ratios, "×", g, fmt.Sprintf("%.0f and %.0f records/s", median(xs), median(ys)))
	}
	return err
}

func (b *bench) append() error {
	for _, batch := range []int{64, 1024} {
		raft := b.rate(batch, b.raftWAL(batch))
		name := fmt.Sprintf("append, batches of %d: ", batch)
		if err := b.beside(name+"outbox / raft-wal", atLeast(0.75), b.rate(batch, b.ours(batch)), raft); err != nil {
			return err
		}
		if err := b.beside(name+"two fdatasyncs, no database / raft-wal", nil, b.rate(batch, b.bare(batch, false)), raft); err != nil {
			return err
		}
	}
	return b.beside("append, 64 producers: outbox / a commit a message", atLeast(8), b.producers, b.commitEach)
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
