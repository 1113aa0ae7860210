package outbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/outbox/boltpage"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// live is a segment's file while it is written.
type live struct {
	writer
	head  head     // as of the last commit
	file  *os.File // what readers read by: the pages that the transaction they hold keeps in place
	used  int64    // bytes up to the highest used page
	limit int64    // bytes set aside on the disk
}

// writer appends records to a bbolt file.
type writer struct {
	db     *bolt.DB
	pack   bool
	broken bool // bbolt panicked over it
	dict   dictionary
	arena  []byte // the blocks of one transaction; bbolt refers to it until that ended
	ends   [4]int // how large the last blocks are: as many as a leaf may have that bbolt does not split
}

// rewrites returns how many bytes of what is there the next commit writes anew at
// most: the last leaf.
func (w *writer) rewrites() int64 {
	return int64(w.ends[0] + w.ends[1] + w.ends[2] + w.ends[3])
}

// errPanic is a panic of bbolt's, or a fault on a page that it mapped.
var errPanic = errors.New("panic in bbolt")

// guard makes errors of panics and memory faults in fn. A page that the card
// fails to read is a fault, and would end the process.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errPanic, p)
		}
	}()
	return fn()
}

// openBolt opens or makes a bbolt file. Pages of 4 KiB whatever the kernel's
// keep a card readable on another Pi and the writes small; without a synced
// freelist a commit does not rewrite it; the map is made once, for limit bytes,
// since making it anew waits for readers.
func openBolt(path string, limit int64, noSync bool) (*bolt.DB, error) {
	var db *bolt.DB
	err := guard(func() (err error) {
		db, err = bolt.Open(path, 0o600, &bolt.Options{
			Timeout: 2 * time.Second, PageSize: boltpage.PageSize, NoFreelistSync: true, FreelistType: bolt.FreelistMapType,
			InitialMmapSize: int(limit), NoStatistics: true, NoSync: noSync, NoGrowSync: noSync,
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	db.AllocSize = 1 << 20
	return db, nil
}

// reserve sets size bytes aside for the file at path and returns ENOSPC when they
// are not to be had. A file system that cannot do that gets a file of that size
// and no promise.
func reserve(path string, size int64, keepSize bool) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	mode := uint32(0)
	if keepSize {
		mode = unix.FALLOC_FL_KEEP_SIZE
	}
	err = unix.Fallocate(int(f.Fd()), mode, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		err = nil
		if !keepSize {
			err = f.Truncate(size)
		}
	}
	if err != nil {
		err = &fs.PathError{Op: "fallocate", Path: path, Err: err}
	}
	return errors.Join(err, f.Close())
}

// put adds records of one epoch to the file within tx, in blocks. h is the head
// of their run; it is brought up to date and written. limit is how large blocks grow.
func (w *writer) put(tx *bolt.Tx, h *head, recs []telemetry.Record, limit int) error {
	records, err := tx.CreateBucketIfNotExists(bucketRecords)
	if err != nil {
		return err
	}
	records.FillPercent = 1 // keys only ever ascend: a full page stays full
	pre := prefix(h.Epoch, w.pack)
	for len(recs) > 0 {
		n, block := w.block(h, recs, limit)
		if err := records.Put(recordKey(pre, recs[0].Seq), block); err != nil {
			return err
		}
		w.ends = [4]int{w.ends[1], w.ends[2], w.ends[3], len(block)}
		recs = recs[n:]
	}
	return w.putHead(tx, h)
}

// block encodes the next block and returns how many records are in it.
func (w *writer) block(h *head, recs []telemetry.Record, limit int) (n int, block []byte) {
	from := len(w.arena)
	var at telemetry.Instant
	for n < len(recs) {
		rec := &recs[n]
		before, topic := len(w.arena), uint64(0)
		if n > 0 && before-from+recordSize(rec) > limit+64 {
			break // cannot fit, and need not be encoded to see it
		}
		if rec.Reading != nil {
			topic = w.dict.id(rec.Reading.Topic)
		}
		w.arena = appendRecord(w.arena, h.Epoch, rec, at, topic)
		if n > 0 && len(w.arena)-from > limit {
			w.arena = w.arena[:before]
			break
		}
		at = rec.At
		h.add(rec)
		n++
	}
	return n, w.arena[from:len(w.arena):len(w.arena)]
}

func (w *writer) putHead(tx *bolt.Tx, h *head) error {
	b, err := tx.CreateBucketIfNotExists(bucketHead)
	if err != nil {
		return err
	}
	return b.Put(headKey(h.Epoch, h.Seqs.First), h.encode())
}

func (w *writer) putTopics(tx *bolt.Tx) error {
	if len(w.dict.fresh) == 0 {
		return nil
	}
	b, err := tx.CreateBucketIfNotExists(bucketTopics)
	if err != nil {
		return err
	}
	return w.dict.flush(b.Put)
}

func (w *writer) putLosses(tx *bolt.Tx, e telemetry.Epoch, recs []telemetry.Record) error {
	for i := range recs {
		if recs[i].Loss == nil {
			continue
		}
		b, err := tx.CreateBucketIfNotExists(bucketLosses)
		if err != nil {
			return err
		}
		if err := b.Put(recordKey(prefix(e, w.pack), recs[i].Seq), nil); err != nil {
			return err
		}
	}
	return nil
}

// state is an entry of the receipts bucket.
type state struct {
	epoch telemetry.Epoch
	value []byte
}

func putStates(tx *bolt.Tx, states []state) error {
	if len(states) == 0 {
		return nil
	}
	b, err := tx.CreateBucketIfNotExists(bucketReceipts)
	if err != nil {
		return err
	}
	for _, s := range states {
		if err := b.Put(appendEpoch(nil, s.epoch), s.value); err != nil {
			return err
		}
	}
	return nil
}

// part is what a transaction adds to one run.
type part struct {
	head *head // brought up to date
	recs []telemetry.Record
}

// commit writes records and states in one transaction. What it returns nil for is
// on the disk. An error for which noSpace is true means that nothing was changed.
// After errPanic the file must not be used any more.
func (w *writer) commit(parts []part, states []state) (used int64, err error) {
	w.arena = w.arena[:0]
	err = guard(func() error {
		tx, err := w.db.Begin(true)
		if err != nil {
			return err
		}
		if err := w.fill(tx, parts, states); err != nil {
			return errors.Join(err, tx.Rollback())
		}
		return tx.Commit()
	})
	if err != nil {
		// After a panic the transaction is left as it is: to roll back, bbolt would
		// read every page of the file in a goroutine of its own, where a second
		// panic would end the process.
		w.broken = errors.Is(err, errPanic)
		return 0, err
	}
	if cap(w.arena) > maxArena {
		w.arena = nil
	}
	err = guard(func() error {
		return w.db.View(func(tx *bolt.Tx) error { used = tx.Size(); return nil })
	})
	return used, err
}

// fill puts records and states into a transaction.
func (w *writer) fill(tx *bolt.Tx, parts []part, states []state) error {
	size := 0
	for _, p := range parts {
		for i := range p.recs {
			size += recordSize(&p.recs[i])
		}
	}
	limit := blockBytes(size)
	for _, p := range parts {
		if err := errors.Join(w.put(tx, p.head, p.recs, limit), w.putLosses(tx, p.head.Epoch, p.recs)); err != nil {
			return err
		}
	}
	return errors.Join(w.putTopics(tx), putStates(tx, states))
}

// close closes the file, unless a panic left bbolt's locks held: then it stays
// open until the process ends.
func (w *writer) close() error {
	if w.broken {
		return nil
	}
	return guard(w.db.Close)
}

// maxArena is what is kept of the room for blocks between commits, in bytes.
const maxArena = 2 << 20

// passing are the errors that say nothing about the card: the disk is full, or the
// device is short of file descriptors or memory, or may not just now.
var passing = []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EACCES}

// noSpace reports whether something failed for want of room, or of what else is
// short now and then, before anything was synced: bbolt's writes fail with a
// PathError, its fsync with a bare errno. A file system may report want of room
// first at fsync: that is a failed fsync.
func noSpace(err error) bool {
	var pe *fs.PathError
	return errors.As(err, &pe) && slices.ContainsFunc(passing, func(errno error) bool { return errors.Is(pe.Err, errno) })
}

// wanting adds errNoRoom to an error for which noSpace is true: it is tried again later.
func wanting(err error) error {
	if noSpace(err) {
		return errors.Join(errNoRoom, err)
	}
	return err
}

// view reads a live file at its newest commit. Pages are read, not mapped, and a
// bbolt transaction keeps them from being reused meanwhile.
func (l *live) view(fn func(*reader) error) error {
	for try := 0; ; try++ {
		err := guard(func() error {
			return l.db.View(func(tx *bolt.Tx) error {
				f, err := boltpage.OpenTx(l.file, tx.Size(), uint64(tx.ID()))
				if err != nil {
					return err
				}
				return fn(newReader(f, false))
			})
		})
		// Two commits between the first line and the second: try again. They do not
		// come between every time: then it is the meta page that is wrong.
		if !errors.Is(err, boltpage.ErrMoved) {
			return err
		}
		if try == maxViews {
			return damaged("no meta page to read by: %v", err)
		}
	}
}

const maxViews = 1000

func (l *live) close() error {
	return errors.Join(l.writer.close(), l.file.Close())
}

// birth makes a segment for run h, with first in it: under a temporary name,
// committed and synced there, renamed, and the name synced. A bbolt file whose
// very first write is cut off can be anything.
func (o *Outbox) birth(h *head, limit int64, first []telemetry.Record, states []state) (*live, string, error) {
	name := liveName(h.Epoch, h.Seqs.First)
	path := filepath.Join(o.opts.Dir, name)
	temp := path + suffixTemp
	l, err := o.bear(temp, limit, h, first, states)
	if err != nil {
		return nil, "", errors.Join(err, os.Remove(temp))
	}
	if err = os.Rename(temp, path); err == nil {
		err = syncDir(o.opts.Dir)
	}
	if err != nil {
		return nil, "", errors.Join(fatal(err), l.close())
	}
	return l, name, nil
}

// bear makes the file under its temporary name.
func (o *Outbox) bear(temp string, limit int64, h *head, first []telemetry.Record, states []state) (_ *live, err error) {
	err = os.Rename(filepath.Join(o.opts.Dir, nameSpare), temp)
	o.mu.Lock()
	o.spare = 0
	o.mu.Unlock()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	db, err := openBolt(temp, limit, o.opts.noSync)
	if err != nil {
		return nil, err
	}
	l := &live{writer: writer{db: db}, limit: limit}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.writer.close())
		}
	}()
	// The file gets its whole size at once, or bbolt would sync every time it grows it.
	if err = reserve(temp, limit, false); err != nil {
		return nil, err
	}
	if l.used, err = l.commit([]part{{h, first}}, states); err != nil {
		return nil, err
	}
	l.file, err = os.Open(temp)
	return l, err
}
