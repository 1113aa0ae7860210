package outbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"

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
	o.loadStates()
	for _, e := range o.order {
		o.changes.look[e] = true
	}
	for _, f := range o.files {
		o.condemned += int(boolByte(f.bad != nil))
	}
	if n := len(o.order); n > 0 {
		o.prior = o.order[n-1]
		ordinal = max(ordinal, o.prior.id.Ordinal)
	}
	o.current = o.epochLocked(newEpochID(ordinal + 1))
	return nil
}

func (o *Outbox) sortLocked() {
	sort.Slice(o.order, func(i, j int) bool { return o.order[i].id.Compare(o.order[j].id) < 0 })
	sort.SliceStable(o.files, func(i, j int) bool { return o.files[i].before(o.files[j]) })
}

// before orders files by the oldest record in them.
func (f *segment) before(g *segment) bool {
	if len(f.runs) == 0 || len(g.runs) == 0 {
		return len(f.runs) > len(g.runs)
	}
	a, b := f.runs[0], g.runs[0]
	if c := a.epoch.id.Compare(b.epoch.id); c != 0 {
		return c < 0
	}
	return a.seqs.First < b.seqs.First
}

// epochLocked returns what is known of an epoch, making it known.
func (o *Outbox) epochLocked(id telemetry.Epoch) *epoch {
	if e := o.epochs[id]; e != nil {
		return e
	}
	e := &epoch{id: id, changes: &o.changes}
	o.epochs[id] = e
	i := sort.Search(len(o.order), func(i int) bool { return o.order[i].id.Compare(id) > 0 })
	o.order = append(o.order, nil)
	copy(o.order[i+1:], o.order[i:])
	o.order[i] = e
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
	case strings.HasSuffix(name, suffixTemp), name == nameSpare:
		return nil, os.Remove(path)
	case strings.HasSuffix(name, suffixBad):
		o.stat.quarantined++
		o.stat.quarantinedBytes += info.Size()
		return nil, nil
	}
	f := &segment{name: name, size: info.Size()}
	if strings.HasPrefix(name, prefixPack) && strings.HasSuffix(name, suffixSegment) {
		f.pack = true
		return f, o.admitPack(f, path)
	}
	e, seqs, sealed, ok := parseName(name)
	if !ok {
		return nil, nil
	}
	if !sealed {
		if err := o.recoverLive(f, e, seqs.First); err != nil || !f.gone {
			return f, err
		}
		return nil, nil // it was empty
	}
	o.addRunLocked(f, e, seqs)
	return f, nil
}

func (o *Outbox) addRunLocked(f *segment, id telemetry.Epoch, seqs telemetry.Range) {
	r := &run{epoch: o.epochLocked(id), seqs: seqs, file: f}
	f.runs = append(f.runs, r)
	r.epoch.addRun(r)
}

func (o *Outbox) admitPack(f *segment, path string) error {
	file, r, err := openSealed(path, true)
	var heads []head
	if err == nil {
		heads, err = r.heads()
		err = errors.Join(err, file.Close())
	}
	if err != nil && !isDamage(err) {
		return err
	}
	if err != nil {
		f.bad = err
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
	h, used, err := o.readEnd(f.name, e, first)
	if errors.Is(err, syscall.EIO) { // a card may read at the second try
		h, used, err = o.readEnd(f.name, e, first)
	}
	if err != nil && !isDamage(err) {
		return err
	}
	last := first - 1
	if h.Seqs.Len() > 0 {
		last = h.Seqs.Last
	}
	o.addRunLocked(f, e, telemetry.Range{First: first, Last: last})
	if err != nil {
		f.bad = err
		return nil
	}
	return o.finish(f, used)
}

// readEnd returns the head of a segment after checking that its last record is there.
func (o *Outbox) readEnd(name string, e telemetry.Epoch, first uint64) (h head, used int64, err error) {
	file, r, err := openSealed(filepath.Join(o.opts.Dir, name), false)
	if err != nil {
		return head{}, 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	heads, err := r.heads()
	if err != nil {
		return head{}, 0, err
	}
	h = heads[0]
	if len(heads) != 1 || h.Epoch != e || h.Seqs.First != first {
		return head{}, 0, damaged("head is another segment's")
	}
	if r.f.Torn {
		// bbolt goes back to its other meta page, and so to the commit before.
		return h, 0, damaged("a meta page is wrong: the last commit may be missing")
	}
	if h.Seqs.Len() > 0 {
		last := telemetry.Range{First: h.Seqs.Last, Last: h.Seqs.Last}
		err = r.scan(e, last, func(telemetry.Record) bool { return true })
	}
	return h, r.f.Used(), err
}

// adoptRan goes on counting how long the device ran from where the newest epoch
// before this one left it.
func (o *Outbox) adoptRan(h *head) {
	o.ranBase = h.Ran
	if h.Boot == o.opts.Boot && h.Boot != ([16]byte{}) {
		o.ranBase = h.Ran - h.Up // still the same boot: the time since h was written counts
	}
}

// loadStates takes over what the newest readable segment says was receipted.
func (o *Outbox) loadStates() {
	for i := len(o.files) - 1; i >= 0; i-- {
		f := o.files[i]
		if f.pack || f.bad != nil || f.runs[0].seqs.Len() == 0 {
			continue
		}
		err := o.loadState(f)
		if err == nil {
			return
		}
		// The one before knows less; what it does not know is sent again.
		o.log.Warn("outbox: receipts could not be read", "segment", f.name, "error", err)
	}
}

func (o *Outbox) loadState(f *segment) error {
	file, r, err := openSealed(filepath.Join(o.opts.Dir, f.name), false)
	if err != nil {
		return err
	}
	heads, err := r.heads()
	if err == nil {
		h := heads[0]
		f.runs[0].epoch.clean = h.Clean && h.Seqs.Last == f.runs[0].epoch.last
		o.adoptRan(&h)
		err = r.each(bucketReceipts, func(k, v []byte) error {
			id, ok := decodeEpochKey(k)
			if !ok {
				return damaged("key of a state")
			}
			return o.epochLocked(id).decodeState(v)
		})
	}
	return errors.Join(err, file.Close())
}
