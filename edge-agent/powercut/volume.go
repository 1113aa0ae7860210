package powercut

import (
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
)

const (
	pageSize = 4096
	sector   = 512 // what a disk writes whole
)

// Op is a kind of operation that a Fault can fail.
type Op string

// The operations. SyncDir is the fsync of a folder; Truncate any change of a
// file's size by its name or descriptor; Allocate is fallocate.
const (
	Create   Op = "create"
	Open     Op = "open"
	Read     Op = "read"
	Write    Op = "write"
	Sync     Op = "fsync"
	SyncDir  Op = "syncdir"
	Truncate Op = "truncate"
	Allocate Op = "allocate"
	Rename   Op = "rename"
	Unlink   Op = "unlink"
)

// volume is the disk: what programs see of it, and what would be left of that.
type volume struct {
	mu       sync.Mutex
	rng      *rand.Rand
	root     *object
	journal  []change // of names, not durable yet, in order
	lastID   uint64
	capacity int64 // bytes; 0 is no limit
	dead     bool  // the power is off
	boots    int   // counts Cuts
	fault    func(Op, string) syscall.Errno
}

// object is a file or a folder.
type object struct {
	id   uint64
	mode uint32 // type and permissions

	names map[string]*object // of a folder
	safe  map[string]*object // those that are durable

	pages    map[int64][]byte // of a file, by number
	disk     map[int64][]byte // those that are durable
	dirty    map[int64]uint8  // sectors of a page that differ
	size     int64
	diskSize int64
	reserved int64 // bytes from 0 set aside by fallocate
}

// change is what one operation did to names: all of it becomes durable or nothing.
type change []entry

type entry struct {
	dir  *object
	name string
	to   *object // nil: the name is gone
}

func newVolume(seed uint64) *volume {
	v := &volume{rng: rand.New(rand.NewPCG(seed, 0))}
	v.root = v.newObject(syscall.S_IFDIR | 0o755)
	return v
}

func (v *volume) newObject(mode uint32) *object {
	v.lastID++
	o := &object{id: v.lastID, mode: mode}
	if o.isDir() {
		o.names, o.safe = map[string]*object{}, map[string]*object{}
	} else {
		o.pages, o.disk, o.dirty = map[int64][]byte{}, map[int64][]byte{}, map[int64]uint8{}
	}
	return o
}

func (o *object) isDir() bool { return o.mode&syscall.S_IFMT == syscall.S_IFDIR }

// begin locks the volume for an operation, unless the power is off or a fault is
// due. A fault may sleep: it is asked before the lock is taken.
func (v *volume) begin(op Op, name string) syscall.Errno {
	v.mu.Lock()
	fault := v.fault
	v.mu.Unlock()
	if fault != nil {
		if errno := fault(op, name); errno != 0 {
			return errno
		}
	}
	v.mu.Lock()
	if v.dead {
		v.mu.Unlock()
		return syscall.EIO
	}
	return 0
}

// apply makes a change visible and notes it as not durable.
func (v *volume) apply(c ...entry) {
	for _, e := range c {
		e.set(e.dir.names)
	}
	v.journal = append(v.journal, c)
}

func (e entry) set(names map[string]*object) {
	if e.to == nil {
		delete(names, e.name)
	} else {
		names[e.name] = e.to
	}
}

func (c change) harden() {
	for _, e := range c {
		e.set(e.dir.safe)
	}
}

// syncDir makes every change that touches a folder durable.
func (v *volume) syncDir(dir *object) {
	keep := v.journal[:0]
	for _, c := range v.journal {
		if slices.ContainsFunc(c, func(e entry) bool { return e.dir == dir }) {
			c.harden()
		} else {
			keep = append(keep, c)
		}
	}
	v.journal = keep
}

// syncFile makes a file's bytes and size durable, not its name.
func (o *object) syncFile() {
	for n := range o.dirty {
		o.harden(n, 0xff)
	}
	o.diskSize = o.size
	clear(o.dirty)
}

// harden copies sectors of a page to the disk.
func (o *object) harden(n int64, sectors uint8) {
	src, ok := o.pages[n]
	if !ok {
		src = make([]byte, pageSize) // it was cut off
	}
	dst, ok := o.disk[n]
	if !ok {
		dst = make([]byte, pageSize)
		o.disk[n] = dst
	}
	for i := range pageSize / sector {
		if sectors&(1<<i) != 0 {
			copy(dst[i*sector:(i+1)*sector], src[i*sector:])
		}
	}
}

func (v *volume) used() int64 {
	var sum int64
	seen := map[*object]bool{}
	var walk func(*object)
	walk = func(o *object) {
		if seen[o] {
			return
		}
		seen[o] = true
		sum += o.blocks()
		for _, c := range o.names {
			walk(c)
		}
	}
	walk(v.root)
	return sum
}

func (o *object) blocks() int64 { return max(o.reserved, int64(len(o.pages))*pageSize) }

// write puts data at off.
func (v *volume) write(o *object, data []byte, off int64) syscall.Errno {
	if v.capacity > 0 && v.used()+o.growth(int64(len(data)), off) > v.capacity {
		return syscall.ENOSPC
	}
	for done := 0; done < len(data); {
		n, at := (off+int64(done))/pageSize, int((off+int64(done))%pageSize)
		p, ok := o.pages[n]
		if !ok {
			p = make([]byte, pageSize)
			o.pages[n] = p
		}
		m := copy(p[at:], data[done:])
		for s := at / sector; s <= (at+m-1)/sector; s++ {
			o.dirty[n] |= 1 << s
		}
		done += m
	}
	o.size = max(o.size, off+int64(len(data)))
	return 0
}

// growth returns how many more bytes the disk would hold after a write.
func (o *object) growth(length, off int64) int64 {
	fresh := int64(0)
	for n := off / pageSize; n*pageSize < off+length; n++ {
		if _, ok := o.pages[n]; !ok {
			fresh++
		}
	}
	return max(o.reserved, (int64(len(o.pages))+fresh)*pageSize) - o.blocks()
}

func (o *object) read(dest []byte, off int64) int {
	if off >= o.size {
		return 0
	}
	dest = dest[:min(int64(len(dest)), o.size-off)]
	clear(dest)
	for done := 0; done < len(dest); {
		n, at := (off+int64(done))/pageSize, int((off+int64(done))%pageSize)
		step := min(pageSize-at, len(dest)-done)
		if p, ok := o.pages[n]; ok {
			copy(dest[done:done+step], p[at:])
		}
		done += step
	}
	return len(dest)
}

// truncate sets a file's size.
func (o *object) truncate(size int64) {
	if size < o.size {
		for n := range o.pages {
			if n*pageSize >= size {
				delete(o.pages, n)
				o.dirty[n] = 0xff
			}
		}
		if p, ok := o.pages[size/pageSize]; ok {
			clear(p[size%pageSize:])
			o.dirty[size/pageSize] = 0xff
		}
	}
	if size <= o.size {
		o.reserved = min(o.reserved, size)
	}
	o.size = size
}

func (v *volume) allocate(o *object, end int64, keepSize bool) syscall.Errno {
	grow := max(end, o.blocks()) - o.blocks()
	if v.capacity > 0 && v.used()+grow > v.capacity {
		return syscall.ENOSPC
	}
	o.reserved = max(o.reserved, end)
	if !keepSize {
		o.size = max(o.size, end)
	}
	return 0
}

// cut takes the power away: names keep a random part of what was not synced, in
// order, as a journal does; bytes keep random sectors.
func (v *volume) cut() {
	v.dead = true
	v.boots++
	for _, c := range v.journal[:v.rng.IntN(len(v.journal)+1)] {
		c.harden()
	}
	v.journal = nil
	keep := v.rng.IntN(3) // of sectors: none, half, all
	seen := map[*object]bool{}
	var walk func(*object)
	walk = func(o *object) {
		if seen[o] {
			return
		}
		seen[o] = true
		if o.isDir() {
			o.names = maps.Clone(o.safe)
			for _, name := range slices.Sorted(maps.Keys(o.names)) {
				walk(o.names[name])
			}
			return
		}
		o.tear(v.rng, keep)
	}
	walk(v.root)
}

// tear leaves of a file what was synced and some sectors of what was not.
func (o *object) tear(rng *rand.Rand, keep int) {
	size := o.diskSize
	if keep > 0 && rng.IntN(2) == 0 {
		size = o.size
	}
	for _, n := range slices.Sorted(maps.Keys(o.dirty)) {
		sectors := uint8(0xff)
		if keep < 2 {
			sectors = uint8(rng.Uint32()) * uint8(keep)
		}
		sectors &= o.dirty[n]
		if sectors == 0 {
			continue
		}
		o.harden(n, sectors)
		if _, ok := o.pages[n]; ok && (n+1)*pageSize <= o.size {
			size = max(size, (n+1)*pageSize)
		}
	}
	for n := range o.disk {
		if n*pageSize >= size {
			delete(o.disk, n)
		}
	}
	o.diskSize, o.size = size, size
	o.reserved = 0 // as far as anyone knows
	clear(o.dirty)
	o.pages = make(map[int64][]byte, len(o.disk))
	for n, p := range o.disk {
		o.pages[n] = slices.Clone(p)
	}
}
