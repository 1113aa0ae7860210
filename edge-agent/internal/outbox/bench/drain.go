package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/outbox"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// fillBox appends n records in large batches.
func fillBox(x *box, n int) error {
	ds := drafts(4096)
	for ; n > 0; n -= len(ds) {
		if _, err := x.Append(context.Background(), ds[:min(n, len(ds))]...); err != nil {
			return err
		}
	}
	return nil
}

// drainBox reads everything of every epoch in frames of 512 KiB and receipts it,
// as the uplink and a cloud do. It returns how many records there were.
func drainBox(x *box) (n uint64, err error) {
	for _, e := range x.Epochs() {
		for from := e.Trimmed + 1; from <= e.Durable; {
			recs, err := x.Read(context.Background(), e.Epoch, from, 65536, 512<<10)
			if err != nil {
				return n, err
			}
			if len(recs) == 0 {
				return n, fmt.Errorf("epoch %s: nothing from %d to %d", e.Epoch, from, e.Durable)
			}
			n += uint64(len(recs))
			from = recs[len(recs)-1].Seq + 1
			r := telemetry.Receipt{Agent: "bench", Epochs: []telemetry.EpochReceipt{{Epoch: e.Epoch, Watermark: from - 1}}}
			if err := x.Trim(r); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// drain measures whether a long outage leaves anything behind.
func (b *bench) drain() (err error) {
	used, err := b.fresh("used")
	if err != nil {
		return err
	}
	old, err := openBox(used, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, old.stop()) }()
	b.screen.say("draining: filling with %d records", b.records)
	if err := fillBox(old, b.records); err != nil {
		return err
	}
	b.screen.say("draining")
	full := old.Stats()
	start := time.Now()
	n, err := drainBox(old)
	if err != nil {
		return err
	}
	b.add("drained: read and receipted", []float64{float64(n) / time.Since(start).Seconds()}, "records/s", nil, fmt.Sprintf("%d records, %d segments", n, full.Segments))
	segments := old.Stats().Segments
	for deadline := time.Now().Add(5 * time.Second); segments > 2 && time.Now().Before(deadline); segments = old.Stats().Segments {
		time.Sleep(10 * time.Millisecond)
	}
	b.add("segments left after draining", []float64{float64(segments)}, "files", atMost(2), fmt.Sprintf("%d MiB with what is set aside", old.Stats().Bytes>>20))
	return b.afterwards(old)
}

// afterwards compares an outbox that was full and drained with a fresh one.
func (b *bench) afterwards(old *box) (err error) {
	dir, err := b.fresh("fresh")
	if err != nil {
		return err
	}
	fresh, err := openBox(dir, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fresh.stop()) }()
	err = b.beside("append after draining / fresh, batches of 256", atLeast(0.95),
		func() (float64, error) { return appendFor(old, 256, b.length) },
		func() (float64, error) { return appendFor(fresh, 256, b.length) })
	if err != nil {
		return err
	}
	b.screen.say("bytes a record")
	a, err := bytesARecord(old)
	if err != nil {
		return err
	}
	c, err := bytesARecord(fresh)
	if err != nil {
		return err
	}
	b.add("bytes a record after draining / fresh", []float64{a / c}, "×", atMost(1.1), fmt.Sprintf("%.1f and %.1f bytes", a, c))
	return nil
}

// bytesARecord drains an outbox and fills it anew over several segments.
func bytesARecord(x *box) (float64, error) {
	if _, err := drainBox(x); err != nil {
		return 0, err
	}
	before := x.Stats()
	const n = 600_000
	if err := fillBox(x, n); err != nil {
		return 0, err
	}
	after := x.Stats()
	return float64(after.Unreceipted-before.Unreceipted) / n, nil
}

// drainCommand has this program drain the outbox in a folder and say how fast.
const drainCommand = "drain-child"

// drainChild drains the outbox in dir and says how fast.
func drainChild(dir string) error {
	x, err := openBox(dir, func(o *outbox.Options) { o.KeepBytes = 1 << 40 })
	if err != nil {
		return err
	}
	if _, err := x.Append(context.Background(), drafts(1)...); err != nil { // a device goes on recording
		return errors.Join(err, x.stop())
	}
	start := time.Now()
	n, err := drainBox(x)
	if err != nil {
		return errors.Join(err, x.stop())
	}
	fmt.Fprintf(os.Stdout, "%d %f\n", n, time.Since(start).Seconds())
	return x.stop()
}
