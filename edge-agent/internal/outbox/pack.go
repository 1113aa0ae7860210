package outbox

import (
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"sort"

	bolt "go.etcd.io/bbolt"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/outbox/ranges"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// A pack is a segment with runs of many epochs. A bbolt file takes 32 KiB even for
// one record, so a device that restarts a hundred times a day offline would fill
// its card with starts: when enough small segments of past epochs lie about they
// are copied into one file, and removed once it is durable.
const (
	packBelow = 1 << 20 // a file smaller than this is small
	packFrom  = 32      // small files that are left alone
	packFiles = 64      // files a round: acknowledgements wait for it
)

// chores does what is due besides committing.
func (o *Outbox) chores() error {
	for _, f := range []func() error{o.quarantineAll, o.reclaim, o.expire, o.setAside} {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// packSome makes one pack if there are enough small files, and reports whether it
// is worth calling again.
func (o *Outbox) packSome() (more bool, err error) {
	files := o.smallFiles()
	if len(files) < o.opts.packFrom {
		return false, nil
	}
	files = files[:min(len(files), packFiles)]
	if err := o.pack(files); err != nil {
		if errors.Is(err, errNoRoom) {
			err = nil
		}
		return false, err
	}
	for _, f := range files {
		if err := o.discard(f); err != nil && !errors.Is(err, errNeeded) && !errors.Is(err, errNoRoom) {
			return false, err
		}
	}
	return true, nil
}

func (o *Outbox) smallFiles() []*segment {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.live == nil {
		return nil // a process that appends nothing changes nothing
	}
	var out []*segment
	for _, f := range o.files {
		past := len(f.runs) > 0 && f.runs[0].epoch != o.current
		if past && f.size < packBelow && f.live == nil && f.bad == nil && !f.done {
			out = append(out, f)
		}
	}
	return out
}

// pack copies files into a new one. A file that proves damaged is condemned, and
// no pack made.
func (o *Outbox) pack(files []*segment) error {
	var runs []*run
	for _, f := range files {
		runs = append(runs, f.runs...)
	}
	sort.SliceStable(runs, func(i, j int) bool {
		if c := runs[i].epoch.id.Compare(runs[j].epoch.id); c != 0 {
			return c < 0
		}
		return runs[i].seqs.First < runs[j].seqs.First
	})
	p, err := o.newPacker()
	if err != nil {
		return err
	}
	for _, r := range runs {
		if err = o.packRun(p, r); err != nil {
			if isDamage(err) || errors.Is(err, errPanic) {
				o.condemn(r.file, err)
				err = errors.Join(errNoRoom, err)
			}
			break
		}
	}
	return o.finishPack(p, err)
}

func (o *Outbox) packRun(p *packer, r *run) error {
	h, err := o.handles.get(o, r.file)
	if err != nil {
		return err
	}
	defer o.handles.put(h)
	h.mu.Lock()
	defer h.mu.Unlock()
	heads, err := h.rd.heads()
	if err != nil {
		return err
	}
	p.like(heads, r)
	var perr error
	all := map[telemetry.Epoch]ranges.Set{r.epoch.id: {r.seqs}}
	err = guard(func() error {
		return h.rd.scan(r.epoch.id, r.seqs, func(rec telemetry.Record) bool {
			perr = p.add(r.epoch.id, all, rec)
			return perr == nil
		})
	})
	return errors.Join(err, perr)
}

// packer writes a pack, under a temporary name and synced only at its end.
type packer struct {
	writer
	path    string
	head    head // of the run in hand
	next    head // what the next run says of clocks
	recs    []telemetry.Record
	bytes   int
	runs    []head
	records uint64
	noSync  bool
}

func (o *Outbox) newPacker() (*packer, error) {
	id := newEpochID(0).ID
	path := filepath.Join(o.opts.Dir, prefixPack+hex.EncodeToString(id[:])+suffixSegment)
	db, err := openBolt(path+suffixTemp, 1<<20, true)
	if err != nil {
		if noSpace(err) {
			err = errors.Join(errNoRoom, err)
		}
		return nil, errors.Join(err, os.Remove(path+suffixTemp))
	}
	return &packer{writer: writer{db: db, pack: true}, path: path, noSync: o.opts.noSync}, nil
}

// like has the next run take over what a head says of clocks.
func (p *packer) like(heads []head, r *run) {
	for _, h := range heads {
		if h.Epoch == r.epoch.id && h.Seqs.First == r.seqs.First {
			p.next = h
		}
	}
}

// add appends a record if it is wanted and not there yet. Records come ordered by
// epoch and seq; a gap begins another run.
func (p *packer) add(e telemetry.Epoch, wanted map[telemetry.Epoch]ranges.Set, rec telemetry.Record) error {
	if !wanted[e].Covers(telemetry.Range{First: rec.Seq, Last: rec.Seq}) {
		return nil
	}
	last := p.head.Seqs.Last + uint64(len(p.recs))
	if p.head.Epoch != e || rec.Seq != last+1 {
		if p.head.Epoch == e && p.head.Seqs.First > 0 && rec.Seq <= last {
			return nil // there already: two files held it
		}
		if err := p.endRun(); err != nil {
			return err
		}
		h := p.next
		p.head = head{Epoch: e, Seqs: telemetry.Range{First: rec.Seq, Last: rec.Seq - 1}, Ran: h.Ran, Up: h.Up, Synced: h.Synced, Boot: h.Boot, Clean: h.Clean}
	}
	p.recs = append(p.recs, rec)
	p.records++
	if p.bytes += recordSize(&rec); p.bytes >= batchBytes {
		return p.flush()
	}
	return nil
}

func (p *packer) flush() error {
	if len(p.recs) == 0 {
		return nil
	}
	_, err := p.commit(&p.head, p.recs, nil)
	clear(p.recs)
	p.recs, p.bytes = p.recs[:0], 0
	return err
}

func (p *packer) endRun() error {
	if err := p.flush(); err != nil {
		return err
	}
	if p.head.Seqs.Len() > 0 {
		p.runs = append(p.runs, p.head)
	}
	return nil
}

// finishPack makes a pack durable and takes it into the catalogue; or removes it
// if err is set or nothing is in it.
func (o *Outbox) finishPack(p *packer, err error) error {
	if err == nil {
		err = p.endRun()
	}
	var used int64
	if err == nil {
		err = guard(func() error {
			return p.db.View(func(tx *bolt.Tx) error { used = tx.Size(); return nil })
		})
	}
	err = errors.Join(err, closeBolt(p.db))
	if err != nil || len(p.runs) == 0 {
		if noSpace(err) {
			err = errors.Join(errNoRoom, err)
		}
		return errors.Join(err, os.Remove(p.path+suffixTemp))
	}
	if err := p.publish(used); err != nil {
		return fatal(err)
	}
	f := &segment{name: filepath.Base(p.path), size: used, pack: true}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, h := range p.runs {
		o.addRunLocked(f, h.Epoch, h.Seqs)
		o.changes.look[o.epochs[h.Epoch]] = true
	}
	o.files = append(o.files, f)
	o.sortLocked()
	o.wakeLocked()
	return nil
}

// publish syncs the file, gives it its name and syncs that.
func (p *packer) publish(used int64) error {
	temp := p.path + suffixTemp
	if err := os.Truncate(temp, used); err != nil {
		return err
	}
	if !p.noSync {
		if err := syncDir(temp); err != nil { // it syncs files as well
			return err
		}
	}
	if err := os.Rename(temp, p.path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(p.path))
}
