package outbox

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/outbox/boltpage"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// A segment is one bbolt file:
//
//	head      headKey → head               one, or in a pack one a run
//	records   [epoch] seq → block          the epoch only in a pack
//	topics    number → topic               the dictionary
//	losses    [epoch] seq → nothing        where the loss records are
//	receipts  epoch → state                what was receipted of each open epoch, as of this file
var (
	bucketHead     = []byte("head")
	bucketRecords  = []byte("records")
	bucketTopics   = []byte("topics")
	bucketLosses   = []byte("losses")
	bucketReceipts = []byte("receipts")
)

const (
	suffixSegment = ".seg"
	suffixTemp    = ".tmp" // being born: holds nothing acknowledged
	suffixBad     = ".bad" // quarantined
	prefixPack    = "pack-"
	nameLock      = "lock"
	nameSpare     = "spare"
)

// segment is a file of the folder. Outbox.mu guards its fields.
type segment struct {
	name string
	size int64  // bytes on the disk, a live one's whole reservation
	runs []*run // one; in a pack any number
	pack bool
	bad  error // why it is to be quarantined
	gone bool  // being removed: not to be counted on any more
	done bool  // counted in doneBytes: nothing in it is needed any more

	undone int // runs that are not done

	mu   sync.RWMutex // held for reading while live is used or the file opened, for writing to end or rename it
	live *live        // while it is the one being written
}

// usable reports whether the file's records can be counted on.
func (f *segment) usable() bool { return f.bad == nil && !f.gone }

// run is a run of records of one epoch in one file.
type run struct {
	epoch *epoch
	seqs  telemetry.Range // all durable
	file  *segment
	done  bool // everything in it was receipted or given up
}

func liveName(e telemetry.Epoch, first uint64) string {
	return fmt.Sprintf("%s-%020d%s", e, first, suffixSegment)
}

// sealedName carries the last seq, so that a folder of ten thousand segments
// is read by listing it and a segment that lost its end is found out.
func sealedName(e telemetry.Epoch, seqs telemetry.Range) string {
	return fmt.Sprintf("%s-%020d-%020d%s", e, seqs.First, seqs.Last, suffixSegment)
}

// parseName reads liveName or sealedName back; sealed is false and Last 0 for the former.
func parseName(name string) (e telemetry.Epoch, seqs telemetry.Range, sealed, ok bool) {
	parts := strings.Split(strings.TrimSuffix(name, suffixSegment), "-")
	if !strings.HasSuffix(name, suffixSegment) || len(parts) < 3 || len(parts) > 4 {
		return e, seqs, false, false
	}
	e, err := telemetry.ParseEpoch(parts[0] + "-" + parts[1])
	if err != nil {
		return e, seqs, false, false
	}
	if seqs.First, err = strconv.ParseUint(parts[2], 10, 64); err != nil || seqs.First == 0 {
		return e, seqs, false, false
	}
	if len(parts) == 3 {
		return e, seqs, false, true
	}
	seqs.Last, err = strconv.ParseUint(parts[3], 10, 64)
	return e, seqs, true, err == nil && seqs.Len() > 0
}

func isPack(name string) bool {
	return strings.HasPrefix(name, prefixPack) && strings.HasSuffix(name, suffixSegment)
}

// inOrder compares two places in the log: by epoch, then by seq.
func inOrder(a telemetry.Epoch, first uint64, b telemetry.Epoch, second uint64) int {
	return cmp.Or(a.Compare(b), cmp.Compare(first, second))
}

// prefix is what comes before the seq in the keys of a file.
func prefix(e telemetry.Epoch, pack bool) []byte {
	if !pack {
		return nil
	}
	return appendEpoch(nil, e)
}

func recordKey(prefix []byte, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(prefix[:len(prefix):len(prefix)], seq)
}

// reader reads the records of a file that does not change. It is not safe for
// concurrent use.
type reader struct {
	f      *boltpage.File
	topics topics
	pack   bool
}

func newReader(f *boltpage.File, pack bool) *reader {
	return &reader{f: f, topics: topicsOf(f), pack: pack}
}

// scan calls emit with the records seqs of epoch e, in order, until emit returns
// false. All of them must be there: it returns an error for which isDamage is
// true at the first that is not, or not right.
func (r *reader) scan(e telemetry.Epoch, seqs telemetry.Range, emit func(telemetry.Record) bool) error {
	if seqs.Len() == 0 {
		return nil
	}
	tree, err := r.f.Bucket(bucketRecords)
	if err != nil {
		return bucketDamage(err)
	}
	pre := prefix(e, r.pack)
	c := tree.Cursor()
	k, v, err := c.Floor(recordKey(pre, seqs.First))
	next, more := uint64(0), true
	for ; err == nil && more; k, v, err = c.Next() {
		if len(k) != len(pre)+8 || !bytes.HasPrefix(k, pre) {
			return damaged("seq %d is missing", max(next, seqs.First))
		}
		first := binary.BigEndian.Uint64(k[len(pre):])
		if next == 0 && first > seqs.First || next != 0 && first != next {
			return damaged("seq %d is missing, %d follows", max(next, seqs.First), first)
		}
		next = first
		err := decodeBlock(e, first, v, r.topics, func(rec telemetry.Record) bool {
			next = rec.Seq + 1
			more = rec.Seq < seqs.First || emit(rec) && rec.Seq < seqs.Last
			return more
		})
		if err != nil {
			return err
		}
		if more && next <= first {
			return damaged("seq %d: empty block", first)
		}
	}
	return err
}

// heads returns the heads of a file: one, or in a pack one for each run.
func (r *reader) heads() ([]head, error) {
	var out []head
	err := r.each(bucketHead, func(_, v []byte) error {
		h, err := decodeHead(v)
		out = append(out, h)
		return err
	})
	if err == nil && len(out) == 0 {
		err = damaged("no head")
	}
	return out, err
}

// each calls fn with every key of a bucket. No bucket is an empty one.
func (r *reader) each(bucket []byte, fn func(k, v []byte) error) error {
	tree, err := r.f.Bucket(bucket)
	if errors.Is(err, boltpage.ErrNoBucket) {
		return nil
	}
	if err != nil {
		return err
	}
	c := tree.Cursor()
	k, v, err := c.Floor(nil)
	for ; err == nil && k != nil; k, v, err = c.Next() {
		if err := fn(k, v); err != nil {
			return err
		}
	}
	return err
}

// bucketDamage makes damage of a bucket that must be there and is not.
func bucketDamage(err error) error {
	if errors.Is(err, boltpage.ErrNoBucket) {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return err
}

// isDamage reports whether err says that the bytes on the disk are wrong or gone,
// and not that they could not be got at just now.
func isDamage(err error) bool {
	return errors.Is(err, errDamaged) || errors.Is(err, boltpage.ErrDamaged) || errors.Is(err, syscall.EIO)
}

// openSealed opens a file that is no longer written. The caller closes it.
func openSealed(path string, pack bool) (*os.File, *reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	pages, err := boltpage.Open(f, info.Size())
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, newReader(pages, pack), nil
}

// withSealed calls fn with a file that is no longer written.
func withSealed(path string, pack bool, fn func(*reader) error) error {
	file, r, err := openSealed(path, pack)
	if err != nil {
		return err
	}
	return errors.Join(fn(r), file.Close())
}

// syncDir makes the names in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
