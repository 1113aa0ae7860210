package outbox

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Read returns records of an epoch that follow each other without a gap,
// beginning with the first on the device whose seq is at least from; at most
// maxRecords and maxBytes of topics and payloads, but one if there is any. It
// removes nothing and never returns what is not durable. Nothing returned means
// that there is nothing yet: take Wait's channel before. A run may end early, at
// the end of a file; the rest comes with the next call.
//
// Bytes that prove wrong, twice, are not returned: their segment is quarantined
// and Wait's channel closed when that is done.
func (o *Outbox) Read(ctx context.Context, id telemetry.Epoch, from uint64, maxRecords, maxBytes int) ([]telemetry.Record, error) {
	for try := 0; ; try++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		o.mu.Lock()
		e := o.epochs[id]
		var r *run
		var seqs telemetry.Range
		if e != nil {
			if r = e.next(from); r != nil {
				seqs = telemetry.Range{First: max(r.seqs.First, from), Last: r.seqs.Last}
			}
		}
		o.mu.Unlock()
		if r == nil {
			return nil, nil
		}
		recs, err := o.readRun(r, seqs, maxRecords, maxBytes)
		switch {
		case err == nil:
			return recs, nil
		case try < 2 && errors.Is(err, fs.ErrNotExist): // removed just now
		case !isDamage(err) && !errors.Is(err, errPanic):
			return nil, err
		case try >= 1:
			o.condemn(r.file, err)
			return recs, nil
		}
	}
}

// readRun reads from one file. With an error it returns what was good before it.
func (o *Outbox) readRun(r *run, seqs telemetry.Range, maxRecords, maxBytes int) (recs []telemetry.Record, err error) {
	size := 0
	emit := func(rec telemetry.Record) bool {
		if rec.Reading != nil {
			size += len(rec.Reading.Topic) + len(rec.Reading.Payload)
		}
		if len(recs) > 0 && size > maxBytes {
			return false
		}
		recs = append(recs, rec)
		return len(recs) < maxRecords
	}
	scan := func(rd *reader) error { return rd.scan(r.epoch.id, seqs, emit) }
	f := r.file
	f.mu.RLock()
	if l := f.live; l != nil {
		defer f.mu.RUnlock()
		return recs, l.view(scan)
	}
	f.mu.RUnlock()
	h, err := o.handles.get(o, f)
	if err != nil {
		return nil, err
	}
	defer o.handles.put(h)
	h.mu.Lock()
	defer h.mu.Unlock()
	err = guard(func() error { return scan(h.rd) })
	return recs, err
}

// condemn marks a segment to be quarantined by the committer. From then on it
// leaves in no other way, even if receipts cover all of it.
func (o *Outbox) condemn(f *segment, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f.bad != nil || f.gone {
		return
	}
	o.log.Error("outbox: segment is damaged", "segment", f.name, "error", err)
	f.bad = err
	o.condemned = true
	o.countDoneLocked(f)
	o.nudge()
}

// handles keeps the files open that were read last.
type handles struct {
	mu   sync.Mutex
	open []*handle // most recent first
}

// maxHandles is how many sealed files stay open: the two lanes read one each.
const maxHandles = 2

type handle struct {
	segment *segment
	file    *os.File
	mu      sync.Mutex // held while rd is used
	rd      *reader
	users   int // handles.mu guards it
	gone    bool
}

func (hs *handles) get(o *Outbox, f *segment) (*handle, error) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for i, h := range hs.open {
		if h.segment == f {
			copy(hs.open[1:], hs.open[:i])
			hs.open[0] = h
			h.users++
			return h, nil
		}
	}
	f.mu.RLock()
	file, rd, err := openSealed(filepath.Join(o.opts.Dir, f.name), f.pack)
	f.mu.RUnlock()
	if err != nil {
		return nil, err
	}
	h := &handle{segment: f, file: file, rd: rd, users: 1}
	hs.open = append([]*handle{h}, hs.open...)
	for len(hs.open) > maxHandles {
		hs.dropLocked(len(hs.open) - 1)
	}
	return h, nil
}

// dropLocked closes a handle, or has its last user close it.
func (hs *handles) dropLocked(i int) {
	h := hs.open[i]
	hs.open = append(hs.open[:i], hs.open[i+1:]...)
	h.gone = true
	if h.users == 0 {
		_ = h.file.Close() // only read
	}
}

func (hs *handles) put(h *handle) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if h.users--; h.users == 0 && h.gone {
		_ = h.file.Close() // only read
	}
}

func (hs *handles) forget(f *segment) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for i, h := range hs.open {
		if h.segment == f {
			hs.dropLocked(i)
			return
		}
	}
}

func (hs *handles) closeAll() {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for len(hs.open) > 0 {
		hs.dropLocked(0)
	}
}
