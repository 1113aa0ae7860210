// Package boltpage reads bbolt files by their pages, without bbolt, without a
// memory map and without trust: whatever the bytes are, it returns keys and
// values or an error. It neither panics, nor loops, nor allocates more than
// MaxValue for one page, which bbolt itself does not promise on a damaged file.
package boltpage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// PageSize is the only page size this package reads, in bytes: the outbox
// makes all its files with it, whatever the kernel's.
const PageSize = 4096

// MaxValue bounds a page together with its overflow pages, in bytes.
const MaxValue = 4 << 20

// maxDepth bounds the height of a tree. At two keys a page, the fewest that
// bbolt makes, 64 MiB need 14 levels.
const maxDepth = 24

var (
	// ErrDamaged is in the chain of every error that says the bytes are wrong,
	// as against that they could not be read.
	ErrDamaged = errors.New("damaged page")
	// ErrMoved is returned by OpenTx when the file has gone on to another
	// transaction.
	ErrMoved = errors.New("transaction moved on")
	// ErrNoBucket is returned when there is no bucket of that name. It is
	// not in itself damage.
	ErrNoBucket = errors.New("no such bucket")
)

const (
	magic   = 0xED0CDAED
	version = 2

	flagBranch = 0x01
	flagLeaf   = 0x02
	flagMeta   = 0x04
	flagBucket = 0x01 // of a leaf element

	headerSize  = 16
	branchElem  = 16
	leafElem    = 16
	bucketSize  = 16
	metaSize    = 64
	checkedMeta = 56 // what the checksum covers
)

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrDamaged}, args...)...)
}

// Meta is one of a file's two meta pages.
type Meta struct {
	Root  uint64 // page of the root bucket
	High  uint64 // first page that was never used
	Txid  uint64
	Valid bool // magic, version, page size and checksum are right
}

// ParseMeta reads a meta page. The result is not Valid when anything is wrong.
func ParseMeta(page []byte) Meta {
	if len(page) < headerSize+metaSize || binary.LittleEndian.Uint16(page[8:]) != flagMeta {
		return Meta{}
	}
	m := page[headerSize:]
	le := binary.LittleEndian
	h := fnv.New64a()
	_, _ = h.Write(m[:checkedMeta])
	if le.Uint32(m) != magic || le.Uint32(m[4:]) != version || le.Uint32(m[8:]) != PageSize || le.Uint64(m[56:]) != h.Sum64() {
		return Meta{}
	}
	return Meta{Root: le.Uint64(m[16:]), High: le.Uint64(m[40:]), Txid: le.Uint64(m[48:]), Valid: true}
}

// File is a bbolt file at one transaction. It is not safe for concurrent use.
type File struct {
	r    io.ReaderAt
	size int64
	meta Meta
	// Torn says that one of the two meta pages is not valid. bbolt writes a
	// meta page within one sector, so a power cut does not tear it: a later
	// transaction than this one may have been lost.
	Torn bool
}

// Open reads both meta pages of the size bytes behind r and takes the newer
// valid one. It returns ErrDamaged when neither is.
func Open(r io.ReaderAt, size int64) (*File, error) {
	var metas [2]Meta
	for i := range metas {
		page, err := readAt(r, size, uint64(i), 1)
		if err != nil && !errors.Is(err, ErrDamaged) {
			return nil, err
		}
		metas[i] = ParseMeta(page)
	}
	best := metas[0]
	if metas[1].Valid && (!best.Valid || metas[1].Txid > best.Txid) {
		best = metas[1]
	}
	if !best.Valid {
		return nil, damaged("no valid meta page")
	}
	return &File{r: r, size: size, meta: best, Torn: !metas[0].Valid || !metas[1].Valid}, nil
}

// OpenTx takes the meta page of transaction txid. The caller holds a bbolt read
// transaction with that number, which keeps its pages from being reused. It
// returns ErrMoved when later transactions have overwritten the meta page.
func OpenTx(r io.ReaderAt, size int64, txid uint64) (*File, error) {
	page, err := readAt(r, size, txid%2, 1)
	if err != nil {
		return nil, err
	}
	m := ParseMeta(page)
	if !m.Valid || m.Txid != txid {
		return nil, fmt.Errorf("%w: want %d, got %d", ErrMoved, txid, m.Txid)
	}
	return &File{r: r, size: size, meta: m}, nil
}

// Used returns the bytes of the file up to its highest used page.
func (f *File) Used() int64 { return int64(f.meta.High) * PageSize }

func readAt(r io.ReaderAt, size int64, id uint64, pages uint64) ([]byte, error) {
	if id > uint64(size)/PageSize || pages > MaxValue/PageSize || (id+pages)*PageSize > uint64(size) {
		return nil, damaged("page %d of %d lies outside the file", id, pages)
	}
	buf := make([]byte, pages*PageSize)
	if n, err := r.ReadAt(buf, int64(id)*PageSize); err != nil && n < len(buf) {
		if errors.Is(err, io.EOF) {
			return nil, damaged("page %d is cut off", id)
		}
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	return buf, nil
}

// page returns a page with its overflow, its header checked.
func (f *File) page(id uint64) (node, error) {
	if id < 2 || id >= f.meta.High {
		return node{}, damaged("page %d of %d", id, f.meta.High)
	}
	buf, err := readAt(f.r, f.size, id, 1)
	if err != nil {
		return node{}, err
	}
	n, over, err := parseHeader(buf, id)
	if err != nil {
		return node{}, err
	}
	if over > 0 {
		if buf, err = readAt(f.r, f.size, id, over+1); err != nil {
			return node{}, err
		}
		n.buf = buf
	}
	return n, nil
}

func parseHeader(buf []byte, id uint64) (node, uint64, error) {
	le := binary.LittleEndian
	n := node{buf: buf, count: int(le.Uint16(buf[10:])), leaf: le.Uint16(buf[8:]) == flagLeaf}
	if got := le.Uint64(buf); got != id {
		return node{}, 0, damaged("page %d calls itself %d", id, got)
	}
	if flags := le.Uint16(buf[8:]); flags != flagLeaf && flags != flagBranch {
		return node{}, 0, damaged("page %d has flags %#x", id, flags)
	}
	return n, uint64(le.Uint32(buf[12:])), nil
}

// node is a branch or leaf page, or the page inside an inline bucket.
type node struct {
	buf   []byte
	count int
	leaf  bool
}

// span returns length bytes from pos, which counts from the element at off.
func (n node) span(off int, pos, length uint64) ([]byte, error) {
	from := uint64(off) + pos
	if pos > MaxValue || length > MaxValue || from+length > uint64(len(n.buf)) {
		return nil, errOutside
	}
	return n.buf[from : from+length : from+length], nil
}

// Leaves meets them by the million where there is nothing but noise: these two are
// made once.
var (
	errOutside = damaged("an element ends outside its page")
	errCount   = damaged("fewer elements than the page says")
)

func (n node) elem(i int) (int, error) {
	off := headerSize + i*leafElem // branch elements have the same size
	if i < 0 || i >= n.count || off+leafElem > len(n.buf) {
		return 0, errCount
	}
	return off, nil
}

func (n node) leafAt(i int) (flags uint32, key, value []byte, err error) {
	off, err := n.elem(i)
	if err != nil {
		return 0, nil, nil, err
	}
	le, e := binary.LittleEndian, n.buf[off:]
	pos, ks, vs := uint64(le.Uint32(e[4:])), uint64(le.Uint32(e[8:])), uint64(le.Uint32(e[12:]))
	if key, err = n.span(off, pos, ks); err != nil {
		return 0, nil, nil, err
	}
	value, err = n.span(off, pos+ks, vs)
	return le.Uint32(e), key, value, err
}

func (n node) branchAt(i int) (key []byte, child uint64, err error) {
	off, err := n.elem(i)
	if err != nil {
		return nil, 0, err
	}
	le, e := binary.LittleEndian, n.buf[off:]
	key, err = n.span(off, uint64(le.Uint32(e)), uint64(le.Uint32(e[4:])))
	return key, le.Uint64(e[8:]), err
}

func (n node) key(i int) (k []byte, err error) {
	if n.leaf {
		_, k, _, err = n.leafAt(i)
		return k, err
	}
	k, _, err = n.branchAt(i)
	return k, err
}

// floor returns the index of the last element whose key is at most key, and -1
// when all are above. It trusts the order of the keys no further than that the
// answer may be wrong: whoever uses what lies there checks it.
func (n node) floor(key []byte) (int, error) {
	lo, hi := 0, n.count
	for lo < hi {
		mid := (lo + hi) / 2
		k, err := n.key(mid)
		if err != nil {
			return 0, err
		}
		if bytes.Compare(k, key) <= 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo - 1, nil
}
