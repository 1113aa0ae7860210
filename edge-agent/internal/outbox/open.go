package outbox

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// load reads the folder: the names, the head of every pack, and the end of what
// a process before left unsealed.
func (o *Outbox) load() error {
	entries, err := os.ReadDir(o.opts.Dir)
	if err != nil {
		return err
	}
	var ordinal uint64
	for _, d := range entries {
		f, err := o.admit(d.Name())
		if err != nil {
			return fmt.Errorf("%s: %w", d.Name(), err)
		}
		if e, _, _, ok := parseName(strings.TrimSuffix(d.Name(), suffixBad)); ok {
			ordinal = max(ordinal, e.Ordinal)
		}
		if f != nil {
			o.files = append(o.files, f)
		}
	}
	o.order = o.order[:0]
	for _, e := range o.epochs {
		o.order = append(o.order, e)
		ordinal = max(ordinal, e.id.Ordinal)
	}
	o.sortLocked()
	if err := o.loadStates(); err != nil {
		return err
	}
	for _, e := range o.order {
		o.changes.look[e] = true
	}
	for _, f := range o.files {
		o.condemned = o.condemned || f.bad != nil
	}
	if n := len(o.order); n > 0 {
		o.prior = o.order[n-1]
		ordinal = max(ordinal, o.prior.id.Ordinal)
	}
	o.current = o.epochLocked(newEpochID(ordinal + 1))
	return nil
}

func (o *Outbox) sortLocked() {
	slices.SortFunc(o.order, func(a, b *epoch) int { return a.id.Compare(b.id) })
	slices.SortStableFunc(o.files, compareFiles)
}

// compareFiles orders files by the oldest record in them.
func compareFiles(f, g *segment) int {
	if len(f.runs) == 0 || len(g.runs) == 0 {
		return cmp.Compare(len(g.runs), len(f.runs))
	}
	return compareRuns(f.runs[0], g.runs[0])
}

func compareRuns(a, b *run) int {
	return inOrder(a.epoch.id, a.seqs.First, b.epoch.id, b.seqs.First)
}

// epochLocked returns what is known of an epoch, making it known.
func (o *Outbox) epochLocked(id telemetry.Epoch) *epoch {
	if e := o.epochs[id]; e != nil {
		return e
	}
	e := &epoch{id: id, changes: &o.changes}
	o.epochs[id] = e
	i := sort.Search(len(o.order), func(i int) bool { return o.order[i].id.Compare(id) > 0 })
	o.order = slices.Insert(o.order, i, e)
	return e
}

// admit takes one file of the folder into the catalogue. It returns nil for what
// is no segment.
func (o *Outbox) admit(name string) (*segment, error) {
	path := filepath.Join(o.opts.Dir, name)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case name == nameSpare:
		return nil, o.adoptSpare(path, info)
	case strings.HasSuffix(name, suffixTemp):
		return nil, os.Remove(path)
	case strings.HasSuffix(name, suffixBad):
		o.stat.quarantined++
		o.stat.quarantinedBytes += info.Size()
		return nil, nil
	}
	f := &segment{name: name, size: info.Size()}
	if isPack(name) {
		f.pack = true
		return f, o.admitPack(f, path)
	}
	e, seqs, sealed, ok := parseName(name)
	if !ok {
		return nil, nil
	}
	if !sealed {
		return f, o.recoverLive(f, e, seqs.First)
	}
	o.addRunLocked(f, e, seqs)
	return f, nil
}

// adoptSpare takes over the room that a process before set aside: somebody else may
// have filled the disk since, and without a segment nothing could make room.
func (o *Outbox) adoptSpare(path string, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Size() > 0 || st.Blocks*512 < minSegment || o.opts.ReserveBytes < 0 {
		return os.Remove(path)
	}
	o.spare = min(st.Blocks*512, o.opts.SegmentBytes)
	return nil
}

func (o *Outbox) addRunLocked(f *segment, id telemetry.Epoch, seqs telemetry.Range) {
	r := &run{epoch: o.epochLocked(id), seqs: seqs, file: f}
	f.runs = append(f.runs, r)
	r.epoch.addRun(r)
}

func (o *Outbox) admitPack(f *segment, path string) error {
	var heads []head
	err := o.readTwice(f, func(r *reader) (err error) { heads, err = r.heads(); return err })
	if err != nil {
		return err
	}
	if f.bad != nil {
		if heads, err = trailerOf(path); err != nil {
			return err
		}
	}
	for _, h := range heads {
		o.addRunLocked(f, h.Epoch, h.Seqs)
	}
	return nil
}

func trailerOf(path string) ([]head, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return readTrailer(f, info.Size()), f.Close()
}

// recoverLive finds out what the segment holds that a process before was writing
// to, and seals it.
func (o *Outbox) recoverLive(f *segment, e telemetry.Epoch, first uint64) error {
	var h head
	var used int64
	if err := o.harden(f); err != nil {
		return err
	}
	err := o.readTwice(f, func(r *reader) (err error) {
		h, err = r.end(e, first)
		used = r.f.Used()
		return err
	})
	if err != nil {
		return err
	}
	last := first - 1
	if h.Seqs.Len() > 0 {
		last = h.Seqs.Last
	}
	o.addRunLocked(f, e, telemetry.Range{First: first, Last: last})
	if f.bad != nil {
		return nil
	}
	return o.finish(f, used)
}

// harden makes durable what is in a file that a process before was writing to, and
// has it read from the disk: that process may have been killed before its last
// fsync, or ended because that failed, and then what the kernel remembers is not
// what a power cut leaves. Nobody is to be shown that.
func (o *Outbox) harden(f *segment) error {
	if o.opts.noSync {
		return nil
	}
	file, err := os.OpenFile(filepath.Join(o.opts.Dir, f.name), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	err = file.Sync()
	_ = unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED) // a file system without a cache need not know it
	return errors.Join(err, file.Close())
}

// readTwice calls fn with a file, and notes in it when it proves damaged. What the
// card failed to read it may read at the second try. It returns errors that are
// no damage.
func (o *Outbox) readTwice(f *segment, fn func(*reader) error) error {
	path := filepath.Join(o.opts.Dir, f.name)
	err := withSealed(path, f.pack, fn)
	if errors.Is(err, syscall.EIO) {
		err = withSealed(path, f.pack, fn)
	}
	if isDamage(err) {
		f.bad, err = err, nil
	}
	return err
}

// end returns the head of a segment after checking that its last record is there.
func (r *reader) end(e telemetry.Epoch, first uint64) (head, error) {
	heads, err := r.heads()
	if err != nil {
		return head{}, err
	}
	h := heads[0]
	if len(heads) != 1 || h.Epoch != e || h.Seqs.First != first {
		return head{}, damaged("head is another segment's")
	}
	if r.f.Torn {
		// bbolt goes back to its other meta page, and so to the commit before.
		return h, damaged("a meta page is wrong: the last commit may be missing")
	}
	if h.Seqs.Len() > 0 {
		last := telemetry.Range{First: h.Seqs.Last, Last: h.Seqs.Last}
		err = r.scan(e, last, func(telemetry.Record) bool { return true })
	}
	return h, err
}

// adoptRan goes on counting how long the device ran from where the newest epoch
// before this one left it.
func (o *Outbox) adoptRan(h *head) {
	o.ranBase = h.Ran
	if h.Boot == o.opts.Boot && h.Boot != ([16]byte{}) {
		o.ranBase = h.Ran - h.Up // still the same boot: the time since h was written counts
	}
}

// loadStates takes over what the newest segment says was receipted. Where that
// cannot be read, nothing counts as receipted: an older segment may call so what
// the cloud has asked for again since. What is kept is then sent once more, and
// what was given up is learnt from the loss records themselves.
func (o *Outbox) loadStates() error {
	trusted := true
	for i := len(o.files) - 1; i >= 0; i-- {
		f := o.files[i]
		if f.pack {
			continue
		}
		if f.bad == nil {
			if err := o.loadState(f, trusted); err != nil {
				return err
			}
		}
		if f.bad == nil {
			break
		}
		trusted = false
		o.log.Warn("outbox: receipts could not be read: everything kept is sent again", "segment", f.name, "error", f.bad)
	}
	if trusted {
		return nil
	}
	return o.recollect()
}

// loadState takes over a segment's receipts; if it is not to be trusted with
// them, only which epochs there were, and how far they went.
func (o *Outbox) loadState(f *segment, trusted bool) error {
	var h head
	var states []*epoch
	err := o.readTwice(f, func(r *reader) error {
		heads, err := r.heads()
		if err != nil {
			return err
		}
		h = heads[0]
		states, err = r.states()
		return err
	})
	if err != nil || f.bad != nil {
		return err
	}
	f.runs[0].epoch.clean = h.Clean && h.Seqs.Last == f.runs[0].epoch.last
	o.adoptRan(&h)
	for _, s := range states {
		e := o.epochLocked(s.id)
		e.last = max(e.last, s.last)
		if trusted {
			e.receipted, e.explained, e.pins = s.receipted, s.explained, s.pins
		}
	}
	return nil
}

// states returns what a file says of the epochs it knew.
func (r *reader) states() (out []*epoch, err error) {
	err = r.each(bucketReceipts, func(k, v []byte) error {
		id, ok := decodeEpochKey(k)
		if !ok {
			return damaged("key of a state")
		}
		e := &epoch{id: id}
		out = append(out, e)
		return e.decodeState(v)
	})
	return out, err
}

// recollect learns from the loss records on the disk what they explain. Those in
// damaged files are told of when they are saved.
func (o *Outbox) recollect() error {
	for _, f := range o.files {
		if f.bad != nil {
			continue
		}
		err := o.readTwice(f, func(rd *reader) error {
			for _, r := range f.runs {
				err := eachLoss(rd, r, r.seqs, func(seq uint64, l *telemetry.Loss) {
					if l.Seqs.Len() > 0 {
						o.epochLocked(l.Epoch).explain(explanation{l.Seqs, l.Reason, r.epoch.id, seq})
					}
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
