package boltpage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Metas returns the valid meta pages of a file, the newer first. bbolt writes them
// in turn, so the second is the transaction before.
func Metas(r io.ReaderAt, size int64) ([]Meta, error) {
	var out []Meta
	for i := range uint64(2) {
		page, err := readAt(r, size, i, 1)
		if err != nil && !errors.Is(err, ErrDamaged) {
			return nil, err
		}
		if m := ParseMeta(page); m.Valid {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b Meta) int { return -compare(a.Txid, b.Txid) })
	return out, nil
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// OpenMeta returns the file as of the transaction of m.
func OpenMeta(r io.ReaderAt, size int64, m Meta) *File { return &File{r: r, size: size, meta: m} }

// ReadWriterAt is a file.
type ReadWriterAt interface {
	io.ReaderAt
	io.WriterAt
}

// GoBack makes transaction txid the newest of a file, by writing its meta page over
// the other one. The caller syncs the file.
func GoBack(f ReadWriterAt, size int64, txid uint64) error {
	page, err := readAt(f, size, txid%2, 1)
	if err != nil {
		return err
	}
	if m := ParseMeta(page); !m.Valid || m.Txid != txid {
		return fmt.Errorf("%w: no transaction %d", ErrMoved, txid)
	}
	other := 1 - txid%2
	binary.LittleEndian.PutUint64(page, other)
	_, err = f.WriteAt(page, int64(other)*PageSize)
	return err
}

// Leaf is a leaf page of a tree: where it is and its first key. Page is 0 for a
// bucket that lies inside its parent's page.
type Leaf struct {
	Page uint64
	Key  string
}

// LeafPages lists the leaf pages of a tree in order. It reads the pages above them,
// and a leaf only where it is all there is.
func (t *Tree) LeafPages() ([]Leaf, error) {
	c := t.Cursor()
	n, err := c.rootNode()
	if err != nil {
		return nil, err
	}
	if n.leaf {
		if n.count == 0 {
			return nil, nil
		}
		k, err := n.key(0)
		return []Leaf{{t.root, string(k)}}, err
	}
	return t.leaves(nil, n, 1)
}

func (t *Tree) leaves(out []Leaf, n node, depth int) ([]Leaf, error) {
	if depth >= maxDepth || n.count == 0 {
		return nil, damaged("branch of %d at depth %d", n.count, depth)
	}
	leaf, err := t.above(n)
	for i := 0; err == nil && i < n.count; i++ {
		var key []byte
		var id uint64
		if key, id, err = n.branchAt(i); err != nil {
			break
		}
		if len(out) > 0 && out[len(out)-1].Key >= string(key) {
			return nil, damaged("keys do not ascend")
		}
		if leaf {
			out = append(out, Leaf{id, string(key)})
			continue
		}
		var child node
		if child, err = t.f.page(id); err == nil && child.leaf {
			err = damaged("page %d is a leaf among branches", id)
		}
		if err == nil {
			out, err = t.leaves(out, child, depth+1)
		}
	}
	return out, err
}

// above reports whether a branch's children are leaves: in bbolt's trees all are
// equally deep.
func (t *Tree) above(n node) (bool, error) {
	_, id, err := n.branchAt(0)
	if err != nil {
		return false, err
	}
	child, err := t.f.page(id)
	return child.leaf, err
}
