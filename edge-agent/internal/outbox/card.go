package outbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

// ErrDamage is returned by Verify and Export when some of a folder is not right.
var ErrDamage = errors.New("the outbox is damaged")

// card is a folder looked at from outside: nothing in it is changed, so it may
// lie on a card that is mounted read-only.
type card struct {
	dir   string
	lock  *os.File
	files []*cardFile
	other []string // set aside, unfinished or unknown
}

type cardFile struct {
	name  string
	pack  bool
	heads []head
	err   error // what is wrong with it
}

// ErrNoOutbox is returned by the tools that read a folder for one in which no
// agent ever had an outbox.
var ErrNoOutbox = errors.New("no outbox is in this folder")

// openCard reads a folder. It returns ErrLocked while an agent uses it, and
// ErrNoOutbox when nothing in it looks like one.
func openCard(dir string) (*card, error) {
	c := &card{dir: dir}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if c.lock, err = lockShared(filepath.Join(dir, nameLock)); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	for _, d := range entries {
		name := d.Name()
		_, _, _, ok := parseName(name)
		pack := isPack(name)
		switch {
		case ok || pack:
			f := &cardFile{name: name, pack: pack}
			f.err = c.with(f, func(r *reader) (err error) { f.heads, err = r.heads(); return err })
			c.files = append(c.files, f)
		case name != nameLock && name != nameSpare:
			c.other = append(c.other, name)
		}
	}
	if c.lock == nil && len(c.files) == 0 {
		return nil, fmt.Errorf("%s: %w", dir, ErrNoOutbox)
	}
	slices.SortStableFunc(c.files, func(a, b *cardFile) int { return strings.Compare(a.name, b.name) })
	return c, nil
}

func lockShared(path string) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return flock(f, err, unix.LOCK_SH)
}

func (c *card) close() error {
	if c.lock == nil {
		return nil
	}
	return c.lock.Close()
}

func (c *card) with(f *cardFile, fn func(*reader) error) error {
	return withSealed(filepath.Join(c.dir, f.name), f.pack, fn)
}

// Verify reads every record of the outbox in dir, changes nothing, and writes to
// w what it found. It returns ErrDamage when a segment is not right or one is
// missing, and ErrLocked while an agent uses the folder.
func Verify(dir string, w io.Writer) error {
	c, err := openCard(dir)
	if err != nil {
		return err
	}
	bad, records := 0, uint64(0)
	for _, f := range c.files {
		n := uint64(0)
		if f.err == nil {
			f.err = c.with(f, func(r *reader) (err error) { n, err = f.verify(r); return err })
		}
		if f.err == nil {
			_, err = fmt.Fprintf(w, "ok       %s: %d records\n", f.name, n)
		} else {
			bad++
			if n, err = c.readable(f); err == nil {
				_, err = fmt.Fprintf(w, "DAMAGED  %s: %v; %d records can be read\n", f.name, f.err, n)
			}
		}
		records += n
		if err != nil {
			return errors.Join(err, c.close())
		}
	}
	for _, name := range c.other {
		if _, err := fmt.Fprintf(w, "other    %s\n", name); err != nil {
			return errors.Join(err, c.close())
		}
	}
	var holes []telemetry.EpochRange
	if bad == 0 { // in a damaged folder it cannot be told what should be there
		holes = c.holes()
	}
	for _, h := range holes {
		_, _ = fmt.Fprintf(w, "HOLE     %s %d to %d: nothing in this folder accounts for them\n", h.Epoch, h.Seqs.First, h.Seqs.Last)
	}
	_, err = fmt.Fprintf(w, "%d segments, %d damaged, %d records\n", len(c.files), bad, records)
	if err == nil && bad+len(holes) > 0 {
		err = fmt.Errorf("%w: %d of %d segments, %d holes", ErrDamage, bad, len(c.files), len(holes))
	}
	return errors.Join(err, c.close())
}

// holes returns what lies between the records of an epoch and is neither receipted
// nor given up: as where a whole file has gone.
func (c *card) holes() (out []telemetry.EpochRange) {
	have, states := map[telemetry.Epoch]ranges.Set{}, c.states()
	for _, h := range c.heads() {
		if h.Seqs.Len() > 0 {
			have[h.Epoch] = have[h.Epoch].Add(h.Seqs)
		}
	}
	for id, s := range have {
		last := s[len(s)-1].Last
		if e := states[id]; e != nil {
			s, last = s.Union(e.given()), max(last, e.last)
		}
		for _, seqs := range s.Missing(telemetry.Range{First: 1, Last: last}) {
			out = append(out, telemetry.EpochRange{Epoch: id, Seqs: seqs})
		}
	}
	slices.SortFunc(out, func(a, b telemetry.EpochRange) int { return inOrder(a.Epoch, a.Seqs.First, b.Epoch, b.Seqs.First) })
	return out
}

// verify reads all of a file and returns how many records are in it.
func (f *cardFile) verify(r *reader) (records uint64, err error) {
	if r.f.Torn {
		return 0, damaged("a meta page is wrong")
	}
	if e, seqs, sealed, ok := parseName(f.name); ok {
		h := f.heads[0]
		if len(f.heads) != 1 || h.Epoch != e || h.Seqs.First != seqs.First || sealed && h.Seqs.Last < seqs.Last {
			return 0, damaged("the head says %s %d to %d", h.Epoch, h.Seqs.First, h.Seqs.Last)
		}
	}
	for i := range f.heads {
		h := &f.heads[i]
		count := *h
		count.Readings, count.Bytes, count.Losses, count.Seqs.Last = 0, 0, 0, h.Seqs.First-1
		err := r.scan(h.Epoch, h.Seqs, func(rec telemetry.Record) bool { count.add(&rec); return true })
		if err != nil {
			return records, err
		}
		if count.Readings != h.Readings || count.Bytes != h.Bytes || count.Losses != h.Losses {
			return records, damaged("the head counts otherwise")
		}
		records += h.Seqs.Len()
	}
	return records, f.verifyRest(r)
}

// verifyRest checks what else is in a file.
func (f *cardFile) verifyRest(r *reader) error {
	return errors.Join(
		r.each(bucketTopics, func(k, v []byte) error {
			_, err := openSum(v)
			return err
		}),
		r.each(bucketReceipts, func(_, v []byte) error { return new(epoch).decodeState(v) }),
		r.each(bucketLosses, func(k, _ []byte) error {
			if len(k) != len(prefix(telemetry.Epoch{}, f.pack))+8 {
				return damaged("key of %d bytes", len(k))
			}
			return nil
		}),
	)
}

// readable counts the good records of a damaged file.
func (c *card) readable(f *cardFile) (uint64, error) {
	var n uint64
	err := c.salvage(f, func(telemetry.Epoch, telemetry.Record) error { n++; return nil })
	return n, err
}

// salvage calls fn with the good records of a damaged file, each once, in order.
func (c *card) salvage(f *cardFile, fn func(telemetry.Epoch, telemetry.Record) error) (err error) {
	w, err := openWreck(filepath.Join(c.dir, f.name), f.pack)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.file.Close()) }()
	_, seqs, sealed, _ := parseName(f.name)
	var in telemetry.Epoch
	next := uint64(0)
	for _, x := range w.blocks {
		if x.epoch != in {
			in, next = x.epoch, 0
		}
		err := w.records(x, func(rec telemetry.Record) error {
			if rec.Seq < next || sealed && rec.Seq > seqs.Last {
				return nil // another copy of it was there, or it was never committed
			}
			next = rec.Seq + 1
			return fn(x.epoch, rec)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// PrintStats writes to w what the outbox in dir holds, by epoch. It reads little
// and changes nothing. It returns ErrLocked while an agent uses the folder.
func PrintStats(dir string, w io.Writer) error {
	c, err := openCard(dir)
	if err != nil {
		return err
	}
	defer func() { _ = c.close() }() // only read
	states := c.states()
	heads := c.heads()
	t := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "epoch\tseqs\trecords\treadings\tbytes\tlosses\treceipted")
	var records, open, size uint64
	var last telemetry.Epoch
	seen := ranges.Set(nil)
	for _, h := range heads {
		if h.Epoch != last {
			last, seen = h.Epoch, nil
		}
		receipted := uint64(0)
		if s := states[h.Epoch]; s != nil {
			receipted = s.given().Within(h.Seqs).Len()
		}
		_, _ = fmt.Fprintf(t, "%s\t%d-%d\t%d\t%d\t%d\t%d\t%d\n", h.Epoch, h.Seqs.First, h.Seqs.Last, h.Seqs.Len(), h.Readings, h.Bytes, h.Losses, receipted)
		fresh := seen.Missing(h.Seqs).Len()
		seen = seen.Add(h.Seqs)
		records, size, open = records+fresh, size+h.Bytes, open+fresh-min(fresh, receipted)
	}
	damaged := 0
	for _, f := range c.files {
		damaged += int(boolByte(f.err != nil))
	}
	_, _ = fmt.Fprintf(t, "\n%d segments (%d damaged), %d other files, %d records, %d of them without a receipt, %d bytes of topics and payloads\n",
		len(c.files), damaged, len(c.other), records, open, size)
	return t.Flush() // the first error of all the writes
}

// heads returns the heads of all files, ordered.
func (c *card) heads() []head {
	var out []head
	for _, f := range c.files {
		out = append(out, f.heads...)
	}
	slices.SortStableFunc(out, compareHeads)
	return out
}

// states returns what the newest segment says was receipted.
func (c *card) states() map[telemetry.Epoch]*epoch {
	out := map[telemetry.Epoch]*epoch{}
	var newest *cardFile
	for _, f := range c.files {
		if f.err == nil && !f.pack && (newest == nil || compareHeads(newest.heads[0], f.heads[0]) < 0) {
			newest = f
		}
	}
	if newest == nil {
		return out
	}
	var states []*epoch
	if c.with(newest, func(r *reader) (err error) { states, err = r.states(); return err }) != nil {
		return out
	}
	for _, e := range states {
		out[e.id] = e
	}
	return out
}

func compareHeads(g, h head) int { return inOrder(g.Epoch, g.Seqs.First, h.Epoch, h.Seqs.First) }
