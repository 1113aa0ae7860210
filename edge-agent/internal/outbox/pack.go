package outbox

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
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
	if o.live == nil {
		return false, nil // a process that appends nothing changes nothing
	}
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
	heads := map[runKey]head{}
	for _, f := range files {
		runs = append(runs, f.runs...)
		if err := o.collectHeads(f, heads); err != nil {
			return o.suspect(f, err)
		}
	}
	slices.SortStableFunc(runs, compareRuns)
	p, err := o.newPacker()
	if err != nil {
		return err
	}
	for _, r := range runs {
		p.next = heads[runKey{r.epoch.id, r.seqs.First}]
		if err = o.packRun(p, r); err != nil {
			err = o.suspect(r.file, err)
			break
		}
	}
	return o.finishPack(p, err)
}

type runKey struct {
	epoch telemetry.Epoch
	first uint64
}

func (o *Outbox) collectHeads(f *segment, into map[runKey]head) error {
	h, err := o.handles.get(o, f)
	if err != nil {
		return err
	}
	defer o.handles.put(h)
	h.mu.Lock()
	defer h.mu.Unlock()
	heads, err := h.rd.heads()
	for _, x := range heads {
		into[runKey{x.Epoch, x.Seqs.First}] = x
	}
	return err
}

// suspect condemns a file that gave err if that says it is damaged. The pack is
// then tried again without it.
func (o *Outbox) suspect(f *segment, err error) error {
	if isDamage(err) || errors.Is(err, errPanic) {
		o.condemn(f, err)
		return errors.Join(errNoRoom, err)
	}
	return wanting(err)
}

func (o *Outbox) packRun(p *packer, r *run) error {
	h, err := o.handles.get(o, r.file)
	if err != nil {
		return err
	}
	defer o.handles.put(h)
	h.mu.Lock()
	defer h.mu.Unlock()
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
	head    head // of the run in hand, as far as it is in parts or on the disk
	next    head // what the next run says of clocks
	recs    []telemetry.Record
	parts   []part // of runs that ended, not written yet
	bytes   int    // of recs and parts
	runs    []head
	records uint64
	noSync  bool
}

func (o *Outbox) newPacker() (*packer, error) {
	id := newEpochID(0).ID
	path := filepath.Join(o.opts.Dir, prefixPack+hex.EncodeToString(id[:])+suffixSegment)
	db, err := openBolt(path+suffixTemp, 1<<20, true)
	if err != nil {
		return nil, errors.Join(wanting(err), os.Remove(path+suffixTemp))
	}
	return &packer{writer: writer{db: db, pack: true}, path: path, noSync: o.opts.noSync}, nil
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
		p.endRun()
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

// flush writes what has gathered, in one transaction: a commit for each of ten
// thousand runs would take as long as ten thousand commits.
func (p *packer) flush() error {
	if len(p.recs) > 0 {
		p.parts = append(p.parts, part{&p.head, p.recs})
		p.recs = nil
	}
	if len(p.parts) == 0 {
		return nil
	}
	_, err := p.commit(p.parts, nil)
	for _, x := range p.parts {
		if x.head != &p.head {
			p.runs = append(p.runs, *x.head)
		}
	}
	p.parts, p.bytes = nil, 0
	return err
}

// endRun ends the run in hand.
func (p *packer) endRun() {
	if p.head.Epoch.IsZero() {
		return
	}
	h := p.head
	p.parts = append(p.parts, part{&h, p.recs})
	p.recs, p.head = nil, head{}
}

// finishPack makes a pack durable and takes it into the catalogue; or removes it
// if err is set or nothing is in it.
func (o *Outbox) finishPack(p *packer, err error) error {
	if err == nil {
		p.endRun()
		err = p.flush()
	}
	var used int64
	if err == nil {
		err = guard(func() error {
			return p.db.View(func(tx *bolt.Tx) error { used = tx.Size(); return nil })
		})
	}
	err = errors.Join(err, p.close())
	trailer := encodeTrailer(p.runs)
	if err == nil && len(p.runs) > 0 {
		err = p.end(used, trailer)
	}
	if err != nil || len(p.runs) == 0 {
		return errors.Join(wanting(err), os.Remove(p.path+suffixTemp))
	}
	if err = os.Rename(p.path+suffixTemp, p.path); err == nil {
		err = syncDir(o.opts.Dir)
	}
	if err != nil {
		return fatal(err)
	}
	f := &segment{name: filepath.Base(p.path), size: used + int64(len(trailer)), pack: true}
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

// end cuts the file off behind its last page, writes the trailer there and syncs.
func (p *packer) end(used int64, trailer []byte) error {
	f, err := os.OpenFile(p.path+suffixTemp, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err = f.Truncate(used); err == nil {
		_, err = f.WriteAt(trailer, used)
	}
	if err == nil && !p.noSync {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// A pack ends, behind bbolt's pages, with a second copy of its heads. A segment's
// name says whose numbers are in it; of a pack whose one page of heads is damaged
// nobody would know what was lost.
//
//	trailer = head… ‖ length of the heads (4 bytes) ‖ CRC-32C of all before

func encodeTrailer(heads []head) []byte {
	var b []byte
	for i := range heads {
		h := heads[i].encode()
		b = append(binary.AppendUvarint(b, uint64(len(h))), h...)
	}
	return sealSum(binary.LittleEndian.AppendUint32(b, uint32(len(b))))
}

// maxTrailer bounds what is read of one, in bytes.
const maxTrailer = 16 << 20

// readTrailer returns the heads at the end of the size bytes behind r, none when
// they are not right.
func readTrailer(r io.ReaderAt, size int64) []head {
	end := make([]byte, min(size, 8))
	if _, err := r.ReadAt(end, size-int64(len(end))); err != nil || len(end) < 8 {
		return nil
	}
	n := int64(binary.LittleEndian.Uint32(end)) + 8
	if n > min(size, maxTrailer) {
		return nil
	}
	b := make([]byte, n)
	if _, err := r.ReadAt(b, size-n); err != nil {
		return nil
	}
	return decodeTrailer(b)
}

func decodeTrailer(b []byte) []head {
	b, err := openSum(b)
	if err != nil || len(b) < 4 {
		return nil
	}
	var out []head
	for d := (decoder{b: b[:len(b)-4]}); len(d.b) > 0; {
		h, err := decodeHead(d.bytes(d.uvarint()))
		if err != nil {
			return nil
		}
		out = append(out, h)
	}
	return out
}
