package boltpage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// Tree is one bucket of a file.
type Tree struct {
	f      *File
	root   uint64
	inline *node // a small bucket lies in its parent's page
}

// Bucket returns a top-level bucket. It returns ErrNoBucket when there is none.
func (f *File) Bucket(name []byte) (*Tree, error) {
	t := &Tree{f: f, root: f.meta.Root}
	c := t.Cursor()
	k, v, err := c.Floor(name)
	if err != nil {
		return nil, fmt.Errorf("find bucket %q: %w", name, err)
	}
	if !bytes.Equal(k, name) {
		return nil, fmt.Errorf("%w: %q", ErrNoBucket, name)
	}
	if c.flags&flagBucket == 0 || len(v) < bucketSize {
		return nil, damaged("%q is not a bucket", name)
	}
	root := binary.LittleEndian.Uint64(v)
	if root != 0 {
		return &Tree{f: f, root: root}, nil
	}
	n, err := parseInline(v[bucketSize:])
	if err != nil {
		return nil, err
	}
	return &Tree{f: f, inline: &n}, nil
}

func parseInline(buf []byte) (node, error) {
	if len(buf) < headerSize {
		return node{}, damaged("inline bucket of %d bytes", len(buf))
	}
	n, over, err := parseHeader(buf, 0)
	if err != nil {
		return node{}, err
	}
	if over != 0 || !n.leaf {
		return node{}, damaged("inline bucket is not one leaf")
	}
	return n, nil
}

// Get returns the value of key, or nil when there is none.
func (t *Tree) Get(key []byte) ([]byte, error) {
	k, v, err := t.Cursor().Floor(key)
	if err != nil || !bytes.Equal(k, key) {
		return nil, err
	}
	return v, nil
}

// Cursor returns a cursor that stands nowhere yet.
func (t *Tree) Cursor() *Cursor { return &Cursor{t: t} }

// Cursor walks the keys of a tree in order. Keys and values that it returned
// stay as they are for as long as they are referred to.
type Cursor struct {
	t     *Tree
	stack []frame
	flags uint32
}

type frame struct {
	n node
	i int
}

func (c *Cursor) rootNode() (node, error) {
	if c.t.inline != nil {
		return *c.t.inline, nil
	}
	return c.t.f.page(c.t.root)
}

// Floor goes to the last key that is at most key, or to the first of all when
// every one is above. It returns a nil key when the tree is empty.
func (c *Cursor) Floor(key []byte) (k, v []byte, err error) {
	c.stack = c.stack[:0]
	n, err := c.rootNode()
	for err == nil {
		i, ferr := n.floor(key)
		if ferr != nil {
			return nil, nil, ferr
		}
		c.stack = append(c.stack, frame{n: n, i: max(i, 0)})
		if n.leaf {
			return c.here()
		}
		n, err = c.child()
	}
	return nil, nil, err
}

// child returns the page that the top of the stack points to.
func (c *Cursor) child() (node, error) {
	if len(c.stack) >= maxDepth {
		return node{}, damaged("tree is deeper than %d", maxDepth)
	}
	top := c.stack[len(c.stack)-1]
	_, id, err := top.n.branchAt(top.i)
	if err != nil {
		return node{}, err
	}
	return c.t.f.page(id)
}

func (c *Cursor) here() (k, v []byte, err error) {
	top := c.stack[len(c.stack)-1]
	if top.n.count == 0 {
		if len(c.stack) > 1 {
			return nil, nil, damaged("empty leaf below a branch")
		}
		return nil, nil, nil
	}
	c.flags, k, v, err = top.n.leafAt(top.i)
	if err == nil && len(k) == 0 {
		err = damaged("empty key")
	}
	return k, v, err
}

// Next goes to the key after. It returns a nil key at the end. A file whose
// pages point in a circle gives keys that do not ascend, which is reported as
// damage; so a walk always ends.
func (c *Cursor) Next() (k, v []byte, err error) {
	if len(c.stack) == 0 {
		return nil, nil, nil
	}
	before, _, err := c.here()
	if err != nil || before == nil {
		return nil, nil, err
	}
	if !c.forward() {
		return nil, nil, nil
	}
	for !c.stack[len(c.stack)-1].n.leaf {
		n, err := c.child()
		if err != nil {
			return nil, nil, err
		}
		c.stack = append(c.stack, frame{n: n})
	}
	k, v, err = c.here()
	if err == nil && bytes.Compare(k, before) <= 0 {
		return nil, nil, damaged("keys do not ascend")
	}
	return k, v, err
}

// forward steps to the next element of the lowest page that has one.
func (c *Cursor) forward() bool {
	for len(c.stack) > 0 {
		top := &c.stack[len(c.stack)-1]
		if top.i+1 < top.n.count {
			top.i++
			return true
		}
		c.stack = c.stack[:len(c.stack)-1]
	}
	return false
}

// Leaves calls fn with every key and value that can be made out on any page of the
// size bytes behind r, read as a leaf, in use or not, whatever the tree and the
// page's own header say, and with those of buckets that lie inside a page. Much
// of that is noise: fn goes by checksums of its own. Pages that cannot be read are
// passed over. page and elem name the place for At; key and value are valid only
// during the call. It ends early when fn returns false.
func Leaves(r io.ReaderAt, size int64, fn func(page uint64, elem int, key, value []byte) bool) {
	for id := uint64(2); int64(id+1)*PageSize <= size; id++ {
		n, ok := leafPage(r, size, id)
		if !ok {
			continue
		}
		for i, kv := range n.all() {
			if !fn(id, i, kv.key, kv.value) {
				return
			}
		}
	}
}

// At returns what Leaves found at a place, or nils.
func At(r io.ReaderAt, size int64, page uint64, elem int) (key, value []byte) {
	n, ok := leafPage(r, size, page)
	if !ok {
		return nil, nil
	}
	if all := n.all(); elem < len(all) {
		return all[elem].key, all[elem].value
	}
	return nil, nil
}

// never is a page that nobody wrote to: most of a segment that has just begun.
var never [PageSize]byte

func leafPage(r io.ReaderAt, size int64, id uint64) (node, bool) {
	buf, err := readAt(r, size, id, 1)
	if err != nil || bytes.Equal(buf, never[:]) {
		return node{}, false
	}
	n := node{buf: buf, leaf: true}
	if over := uint64(binary.LittleEndian.Uint32(buf[12:])); over > 0 {
		if long, err := readAt(r, size, id, over+1); err == nil {
			n.buf = long
		}
	}
	// A wrong count must hide nothing: as many elements as a page has room for.
	n.count = (PageSize - headerSize) / leafElem
	return n, true
}

type keyValue struct{ key, value []byte }

// all returns the elements of a leaf that lie within it, and those of the
// buckets inside it.
func (n node) all() []keyValue {
	var out []keyValue
	for i := 0; i < n.count && headerSize+(i+1)*leafElem <= len(n.buf); i++ {
		flags, k, v, err := n.leafAt(i)
		if err != nil || len(k) == 0 {
			continue
		}
		if flags&flagBucket == 0 {
			out = append(out, keyValue{k, v})
			continue
		}
		if len(v) > bucketSize+headerSize && len(v) < PageSize {
			in := node{buf: v[bucketSize:], leaf: true, count: len(v) / leafElem}
			out = append(out, in.all()...)
		}
	}
	return out
}
