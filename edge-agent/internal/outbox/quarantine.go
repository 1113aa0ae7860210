package outbox

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/outbox/boltpage"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

// quarantineAll sets every damaged file aside.
func (o *Outbox) quarantineAll() error {
	for {
		f := o.nextBad()
		if f == nil {
			return nil
		}
		err := o.quarantine(f)
		switch {
		case errors.Is(err, errNoRoom):
			o.mendAt = time.Now().Add(retryRoom)
			return nil
		case errors.Is(err, errNeeded): // once more, with what was asked for
		case err != nil:
			return err
		}
	}
}

func (o *Outbox) nextBad() *segment {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.condemned || time.Now().Before(o.mendAt) {
		return nil
	}
	for _, f := range o.files {
		if f.bad != nil {
			return f
		}
	}
	o.condemned = false
	return nil
}

// quarantine copies what is readable of a damaged file into a new one, gives the
// rest up in loss records, and renames the file once both are durable. Whatever
// stops it half-way leaves the file where it is, to be found damaged again.
func (o *Outbox) quarantine(f *segment) error {
	if o.live == f {
		if err := o.seal(); err != nil {
			return err
		}
	}
	saved, err := o.salvage(f)
	if err != nil {
		return err
	}
	items, lost := o.lossesOf(f)
	if _, err := o.commitOwn(items); err != nil {
		return err
	}
	o.log.Error("outbox: segment quarantined", "segment", f.name+suffixBad, "saved", saved, "lost", lost, "error", f.bad)
	return o.setApart(f)
}

// lossesOf returns the loss records for what was not saved of a damaged file, and
// for what the loss records among that explained.
func (o *Outbox) lossesOf(f *segment) (items []item, lost uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range f.runs {
		have := r.epoch.given().Union(r.epoch.present())
		for _, seqs := range have.Missing(r.seqs) {
			for _, l := range o.recalledLocked(r.epoch, seqs, nil) {
				items = append(items, o.lossItem(l, 0, nobody))
			}
			l := &telemetry.Loss{Epoch: r.epoch.id, Seqs: seqs, Reason: telemetry.ReasonCorrupt, Count: seqs.Len()}
			items = append(items, o.lossItem(l, l.Count, nobody))
			lost += l.Count
		}
	}
	return items, lost
}

// setApart renames a damaged file and takes it out of the catalogue. It returns
// errNeeded when something of it was asked for meanwhile.
func (o *Outbox) setApart(f *segment) error {
	if err := o.tell(f); err != nil {
		return err
	}
	if err := o.condone(f); err != nil {
		return err
	}
	path := filepath.Join(o.opts.Dir, f.name)
	if err := os.Rename(path, path+suffixBad); err != nil {
		return fatal(err)
	}
	if err := syncDir(o.opts.Dir); err != nil {
		return fatal(err)
	}
	o.handles.forget(f)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.removeLocked(f)
	o.stat.quarantined++
	o.stat.quarantinedBytes += f.size
	o.wakeLocked()
	return nil
}

// salvage writes a pack of what is readable in f and nowhere else, and returns
// how many records that is.
func (o *Outbox) salvage(f *segment) (saved uint64, err error) {
	w, err := openWreck(filepath.Join(o.opts.Dir, f.name), f.pack)
	if err != nil {
		return 0, wanting(err)
	}
	defer func() { err = errors.Join(err, w.file.Close()) }()
	o.extend(f, w)
	wanted := o.wanted(f)
	finds := w.finds(wanted)
	if len(finds) == 0 {
		return 0, nil
	}
	p, err := o.newPacker()
	if err != nil {
		return 0, err
	}
	var told []savedLoss
	for _, x := range finds {
		if err == nil {
			err = w.records(x, func(rec telemetry.Record) error {
				if rec.Loss != nil && rec.Loss.Seqs.Len() > 0 {
					told = append(told, savedLoss{rec.Loss, x.epoch, rec.Seq})
				}
				return p.add(x.epoch, wanted, rec)
			})
		}
	}
	if err := o.finishPack(p, err); err != nil {
		return 0, err
	}
	o.recall(told)
	return p.records, nil
}

// savedLoss is a loss record found in a damaged file, with its own epoch and seq.
type savedLoss struct {
	loss *telemetry.Loss
	by   telemetry.Epoch
	seq  uint64
}

// recall notes what loss records explain that were saved: who could not read the
// newest receipts knows it from nowhere else.
func (o *Outbox) recall(told []savedLoss) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range told {
		if e := o.epochs[s.by]; e != nil && e.present().Covers(telemetry.Range{First: s.seq, Last: s.seq}) {
			o.epochLocked(s.loss.Epoch).explain(explanation{s.loss.Seqs, s.loss.Reason, s.by, s.seq})
		}
	}
}

// extend makes known how far a file's runs went, as the newest of their heads
// that are left say, where the file's name and catalogue do not know.
func (o *Outbox) extend(f *segment, w *wreck) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, h := range w.heads {
		known := false
		for _, r := range f.runs {
			if r.epoch.id == h.Epoch && r.seqs.First == h.Seqs.First {
				known = true
				if _, _, sealed, ok := parseName(f.name); ok && !sealed && h.Seqs.Last > r.seqs.Last {
					r.seqs.Last = h.Seqs.Last
					r.epoch.last = max(r.epoch.last, h.Seqs.Last)
				}
			}
		}
		if !known && f.pack {
			o.addRunLocked(f, h.Epoch, h.Seqs)
		}
	}
	if _, _, sealed, ok := parseName(f.name); ok && !sealed {
		r := f.runs[0]
		r.seqs.Last = max(r.seqs.Last, w.last(r.epoch.id, r.seqs.First))
		r.epoch.last = max(r.epoch.last, r.seqs.Last)
	}
	if f.pack {
		o.extendPackLocked(f, w)
	}
}

// extendPackLocked makes known the runs of which a pack has records and no head.
func (o *Outbox) extendPackLocked(f *segment, w *wreck) {
	known, found := map[telemetry.Epoch]ranges.Set{}, map[telemetry.Epoch]ranges.Set{}
	for _, r := range f.runs {
		known[r.epoch.id] = known[r.epoch.id].Add(r.seqs)
	}
	for _, x := range w.blocks {
		found[x.epoch] = found[x.epoch].Add(telemetry.Range{First: x.first, Last: x.last})
	}
	for id, s := range found {
		for _, r := range s {
			for _, seqs := range known[id].Missing(r) {
				o.addRunLocked(f, id, seqs)
			}
		}
	}
}

// wanted returns, by epoch, what of a file's runs is neither receipted nor given
// up nor in another file.
func (o *Outbox) wanted(f *segment) map[telemetry.Epoch]ranges.Set {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := map[telemetry.Epoch]ranges.Set{}
	for _, r := range f.runs {
		have := r.epoch.given().Union(r.epoch.present())
		out[r.epoch.id] = out[r.epoch.id].Union(have.Missing(r.seqs))
	}
	return out
}

// wreck is a file whose tree cannot be trusted: every page is looked at for what
// has a good checksum.
type wreck struct {
	file   *os.File
	size   int64
	pack   bool
	names  map[uint64]string
	heads  map[string]head // by key, the one that reaches furthest
	blocks []find
}

// find is a block with a good record in it.
type find struct {
	epoch telemetry.Epoch
	first uint64
	last  uint64 // of its good records
	page  uint64
	elem  int
}

// openWreck reads all of a file. The caller closes it.
func openWreck(path string, pack bool) (*wreck, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	w := &wreck{file: file, size: info.Size(), pack: pack, names: map[uint64]string{}, heads: map[string]head{}}
	broken := map[uint64][]byte{}
	boltpage.Leaves(file, w.size, func(_ uint64, _ int, k, v []byte) bool {
		switch len(k) {
		case 4:
			w.topic(uint64(binary.BigEndian.Uint32(k)), v, broken)
		case 24:
			if h, err := decodeHead(v); err == nil && bytes.Equal(k, headKey(h.Epoch, h.Seqs.First)) {
				if old, ok := w.heads[string(k)]; !ok || h.Seqs.Last > old.Seqs.Last {
					w.heads[string(k)] = h
				}
			}
		}
		return true
	})
	for id, v := range broken {
		if _, ok := w.names[id]; !ok {
			if t, err := decodeTopic(id, v); err == nil {
				w.names[id] = t
			}
		}
	}
	w.findBlocks()
	return w, nil
}

func (w *wreck) topic(id uint64, v []byte, broken map[uint64][]byte) {
	if id == 0 || id > maxTopics {
		return
	}
	if _, err := openSum(v); err != nil {
		broken[id] = bytes.Clone(v)
		return
	}
	if t, err := decodeTopic(id, v); err == nil {
		w.names[id] = t
	}
}

func (w *wreck) name(id uint64) (string, error) {
	if t, ok := w.names[id]; ok {
		return t, nil
	}
	return "", damaged("topic %d", id)
}

func (w *wreck) findBlocks() {
	n := len(prefix(telemetry.Epoch{}, w.pack))
	single := w.epochs()
	boltpage.Leaves(w.file, w.size, func(page uint64, elem int, k, v []byte) bool {
		if len(k) != n+8 {
			return true
		}
		first := binary.BigEndian.Uint64(k[n:])
		ids := single
		if w.pack {
			e, _ := decodeEpochKey(k[:n])
			ids = []telemetry.Epoch{e}
		}
		for _, e := range ids {
			x := find{epoch: e, first: first, page: page, elem: elem}
			eachRecord(e, first, v, w.name, func(rec telemetry.Record, err error) bool {
				if err == nil {
					x.last = rec.Seq
				}
				return true
			})
			if x.last > 0 {
				w.blocks = append(w.blocks, x)
			}
		}
		return true
	})
	slices.SortStableFunc(w.blocks, func(a, b find) int { return inOrder(a.epoch, a.first, b.epoch, b.first) })
}

// epochs returns whose records may be in a file that is no pack: the name says it.
func (w *wreck) epochs() []telemetry.Epoch {
	e, _, _, ok := parseName(filepath.Base(w.file.Name()))
	if !ok {
		return nil
	}
	return []telemetry.Epoch{e}
}

// last returns the highest good seq of an epoch.
func (w *wreck) last(e telemetry.Epoch, first uint64) uint64 {
	var last uint64
	for _, x := range w.blocks {
		if x.epoch == e && x.first >= first {
			last = max(last, x.last)
		}
	}
	return last
}

// finds returns the blocks that hold something wanted.
func (w *wreck) finds(wanted map[telemetry.Epoch]ranges.Set) []find {
	var out []find
	for _, x := range w.blocks {
		if wanted[x.epoch].Overlaps(telemetry.Range{First: x.first, Last: x.last}) {
			out = append(out, x)
		}
	}
	return out
}

// records calls fn with the good records of a block.
func (w *wreck) records(x find, fn func(telemetry.Record) error) (err error) {
	k, v := boltpage.At(w.file, w.size, x.page, x.elem)
	if k == nil {
		return fmt.Errorf("read page %d: %w", x.page, errDamaged)
	}
	eachRecord(x.epoch, x.first, v, w.name, func(rec telemetry.Record, bad error) bool {
		if bad == nil {
			err = fn(rec)
		}
		return err == nil
	})
	return err
}
