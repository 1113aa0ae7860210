package outbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/outbox/boltpage"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// One fsync a commit.
//
// bbolt syncs twice a commit: the pages, and then the meta page that points to
// them. The outbox has it sync neither, and syncs once after both, before anything
// is acknowledged or shown to readers: half the flushes, of which a card does a
// hundred a second. What the order of two syncs gave is had otherwise. A commit
// never writes to a page of the transaction before, nor to its meta page, and
// begins only when that one is durable. So after a power cut either the newer meta
// page leads to a whole tree, or the commit never ended, nobody was told of it,
// and the transaction before is whole: recovery goes back to it.
//
// A commit that did end, and whose pages were damaged afterwards, looks the same.
// So the file's last page says, a little later and without a sync of its own, up to
// which seq commits had ended: what is missing of that is damage, and is told.

// markVersion is also a magic number: the page lies behind everything of bbolt's.
const markVersion = 0x686f6c64

func encodeMark(e telemetry.Epoch, last uint64) []byte {
	b := binary.LittleEndian.AppendUint32(nil, markVersion)
	return sealSum(binary.LittleEndian.AppendUint64(appendEpoch(b, e), last))
}

// decodeMark returns the seq in a mark of epoch e, and 0 for what is none.
func decodeMark(b []byte, e telemetry.Epoch) uint64 {
	b, err := openSum(b)
	if err != nil {
		return 0
	}
	d := decoder{b: b}
	if d.uint32() != markVersion || d.epoch() != e || len(d.b) != 8 {
		return 0
	}
	return binary.LittleEndian.Uint64(d.b)
}

const markSize = 4 + 16 + 8 + 4

// mark writes up to where commits have ended. It is not synced: the next commit's
// sync or the kernel brings it to the disk, and until then it is only not there.
func (l *live) mark(e telemetry.Epoch) error {
	if l.used > l.limit {
		return nil // bbolt grew into the place
	}
	_, err := l.file.WriteAt(encodeMark(e, l.head.Seqs.Last), l.limit)
	return err
}

func readMark(f *os.File, size int64, e telemetry.Epoch) uint64 {
	b := make([]byte, markSize)
	if _, err := f.ReadAt(b, size-boltpage.PageSize); err != nil {
		return 0
	}
	return decodeMark(b, e)
}

// goBack finds out whether the newest commit of a segment that a process was cut
// off over is whole, and has the file go back to the one before if not.
func (o *Outbox) goBack(name string, e telemetry.Epoch, first uint64) (err error) {
	f, err := os.OpenFile(filepath.Join(o.opts.Dir, name), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	metas, err := boltpage.Metas(f, info.Size())
	if err != nil || len(metas) < 2 || metas[0].Txid == metas[1].Txid {
		return err // what is wrong with it is found by reading it
	}
	newer := newReader(boltpage.OpenMeta(f, info.Size(), metas[0]), false)
	older := newReader(boltpage.OpenMeta(f, info.Size(), metas[1]), false)
	cut := tailWhole(newer, older, e, first)
	if cut == nil || !isDamage(cut) || errors.Is(cut, syscall.EIO) {
		return cut
	}
	heads, herr := older.heads()
	if herr != nil || heads[0].Seqs.Len() == 0 {
		return cut // the first commit was whole before the file had its name
	}
	if mark := readMark(f, info.Size(), e); mark > heads[0].Seqs.Last {
		return fmt.Errorf("commit up to %d had ended: %w", mark, cut)
	}
	o.log.Info("outbox: the last commit was cut off, going back to the one before", "segment", name, "durable", heads[0].Seqs.Last, "error", cut)
	if err := boltpage.GoBack(f, info.Size(), metas[1].Txid); err != nil {
		return err
	}
	return fdatasync(f)
}

func fdatasync(f *os.File) error { return syscall.Fdatasync(int(f.Fd())) }

// tailWhole returns an error unless everything that the newer transaction of a
// segment has beyond the older one is whole. Keys are only ever appended, so all
// leaves but the last must be the same pages; what comes from there on is read.
func tailWhole(newer, older *reader, e telemetry.Epoch, first uint64) error {
	heads, err := newer.heads()
	if err != nil {
		return err
	}
	h := heads[0]
	if len(heads) != 1 || h.Epoch != e || h.Seqs.First != first {
		return damaged("head is another segment's")
	}
	var before head
	if heads, err := older.heads(); err == nil {
		before = heads[0]
	}
	if h.Seqs.Last < before.Seqs.Last || h.Losses < before.Losses {
		return damaged("head is of an older commit")
	}
	from, err := sameLeaves(newer, older, h.Seqs)
	if err != nil {
		return err
	}
	if err := newer.scan(e, telemetry.Range{First: from, Last: h.Seqs.Last}, func(telemetry.Record) bool { return true }); err != nil {
		return err
	}
	return restWhole(newer, older, h.Losses)
}

// sameLeaves returns the first seq that lies on a page of records which the older
// transaction does not have, or may have had otherwise.
func sameLeaves(newer, older *reader, seqs telemetry.Range) (from uint64, err error) {
	if seqs.Len() == 0 {
		return seqs.First, nil
	}
	now, err := newer.leaves(bucketRecords)
	if err != nil {
		return 0, err
	}
	then, err := older.leaves(bucketRecords)
	if err != nil || len(then) < 2 {
		return seqs.First, nil //nolint:nilerr // with nothing to compare, all is read
	}
	same := len(then) - 1
	if len(now) < same || !slices.Equal(now[:same], then[:same]) || len(then[same].Key) != 8 {
		return 0, damaged("pages of the commit before are gone")
	}
	return binary.BigEndian.Uint64([]byte(then[same].Key)), nil
}

// leaves lists the leaf pages of a bucket.
func (r *reader) leaves(bucket []byte) ([]boltpage.Leaf, error) {
	tree, err := r.f.Bucket(bucket)
	if err != nil {
		return nil, bucketDamage(err)
	}
	return tree.LeafPages()
}

// restWhole checks the small buckets.
func restWhole(newer, older *reader, losses uint64) error {
	topicsNow, err := newer.countTopics()
	if err != nil {
		return err
	}
	if then, err := older.countTopics(); err == nil && topicsNow < then {
		return damaged("%d topics, %d before", topicsNow, then)
	}
	found := uint64(0)
	err = newer.each(bucketLosses, func(k, _ []byte) error { found++; return nil })
	if err == nil && found != losses {
		err = damaged("%d losses of %d", found, losses)
	}
	if err != nil {
		return err
	}
	return newer.each(bucketReceipts, func(_, v []byte) error { return new(epoch).decodeState(v) })
}

// countTopics returns how many entries the dictionary has; their numbers must be in a row.
func (r *reader) countTopics() (n uint64, err error) {
	err = r.each(bucketTopics, func(k, v []byte) error {
		n++
		if len(k) != 4 || uint64(binary.BigEndian.Uint32(k)) != n {
			return damaged("topic %d is missing", n)
		}
		_, err := openSum(v)
		return err
	})
	return n, err
}
