package powercut

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// node shows an object to FUSE.
type node struct {
	fs.Inode
	v    *volume
	o    *object
	name string // as it was found
}

var _ = (interface {
	fs.NodeLookuper
	fs.NodeReaddirer
	fs.NodeCreater
	fs.NodeMkdirer
	fs.NodeUnlinker
	fs.NodeRmdirer
	fs.NodeRenamer
	fs.NodeOpener
	fs.NodeReader
	fs.NodeWriter
	fs.NodeFsyncer
	fs.NodeGetattrer
	fs.NodeSetattrer
	fs.NodeAllocater
	fs.NodeStatfser
})((*node)(nil))

func (n *node) attr(o *object, a *fuse.Attr) {
	a.Ino, a.Mode, a.Nlink = o.id, o.mode, 1
	a.Size, a.Blksize, a.Blocks = uint64(o.size), pageSize, uint64(o.blocks()/sector)
}

func (n *node) inode(ctx context.Context, o *object, name string, out *fuse.EntryOut) *fs.Inode {
	n.attr(o, &out.Attr)
	// A boot is another generation: nothing of before may be taken for it.
	return n.NewInode(ctx, &node{v: n.v, o: o, name: name}, fs.StableAttr{Mode: o.mode & syscall.S_IFMT, Ino: o.id, Gen: uint64(n.v.boots) + 1})
}

// Lookup finds a name in a folder.
func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.v.begin(Read, name); errno != 0 {
		return nil, errno
	}
	defer n.v.mu.Unlock()
	o := n.o.names[name]
	if o == nil {
		return nil, syscall.ENOENT
	}
	return n.inode(ctx, o, name, out), 0
}

// Readdir lists a folder.
func (n *node) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	if errno := n.v.begin(Read, n.name); errno != 0 {
		return nil, errno
	}
	defer n.v.mu.Unlock()
	var list []fuse.DirEntry
	for name, o := range n.o.names {
		list = append(list, fuse.DirEntry{Name: name, Mode: o.mode, Ino: o.id})
	}
	return fs.NewListDirStream(list), 0
}

// Create makes a file.
func (n *node) Create(ctx context.Context, name string, _ uint32, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.v.begin(Create, name); errno != 0 {
		return nil, nil, 0, errno
	}
	defer n.v.mu.Unlock()
	o := n.v.newObject(syscall.S_IFREG | mode&0o777)
	n.v.apply(entry{n.o, name, o})
	return n.inode(ctx, o, name, out), nil, fuse.FOPEN_KEEP_CACHE, 0
}

// Mkdir makes a folder.
func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.v.begin(Create, name); errno != 0 {
		return nil, errno
	}
	defer n.v.mu.Unlock()
	o := n.v.newObject(syscall.S_IFDIR | mode&0o777)
	n.v.apply(entry{n.o, name, o})
	return n.inode(ctx, o, name, out), 0
}

// Unlink removes a file's name.
func (n *node) Unlink(_ context.Context, name string) syscall.Errno {
	if errno := n.v.begin(Unlink, name); errno != 0 {
		return errno
	}
	defer n.v.mu.Unlock()
	n.v.apply(entry{n.o, name, nil})
	return 0
}

// Rmdir removes an empty folder.
func (n *node) Rmdir(_ context.Context, name string) syscall.Errno {
	if errno := n.v.begin(Unlink, name); errno != 0 {
		return errno
	}
	defer n.v.mu.Unlock()
	if o := n.o.names[name]; o != nil && len(o.names) > 0 {
		return syscall.ENOTEMPTY
	}
	n.v.apply(entry{n.o, name, nil})
	return 0
}

// Rename moves a name, over another if need be, all at once.
func (n *node) Rename(_ context.Context, name string, to fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if errno := n.v.begin(Rename, name); errno != 0 {
		return errno
	}
	defer n.v.mu.Unlock()
	dir, ok := to.(*node)
	o := n.o.names[name]
	switch {
	case !ok || flags != 0:
		return syscall.ENOTSUP
	case o == nil:
		return syscall.ENOENT
	}
	n.v.apply(entry{n.o, name, nil}, entry{dir.o, newName, o})
	return 0
}

// Open lets a file be read and written by what the kernel has cached of it.
func (n *node) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.v.begin(Open, n.name); errno != 0 {
		return nil, 0, errno
	}
	defer n.v.mu.Unlock()
	return nil, fuse.FOPEN_KEEP_CACHE, 0
}

// Read reads what programs see, durable or not.
func (n *node) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if errno := n.v.begin(Read, n.name); errno != 0 {
		return nil, errno
	}
	defer n.v.mu.Unlock()
	return fuse.ReadResultData(dest[:n.o.read(dest, off)]), 0
}

// Write writes to what programs see.
func (n *node) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	if errno := n.v.begin(Write, n.name); errno != 0 {
		return 0, errno
	}
	defer n.v.mu.Unlock()
	if errno := n.v.write(n.o, data, off); errno != 0 {
		return 0, errno
	}
	return uint32(len(data)), 0
}

// Fsync makes a file's bytes or a folder's names durable.
func (n *node) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	op := Sync
	if n.o.isDir() {
		op = SyncDir
	}
	if errno := n.v.begin(op, n.name); errno != 0 {
		return errno
	}
	defer n.v.mu.Unlock()
	if n.o.isDir() {
		n.v.syncDir(n.o)
	} else {
		n.o.syncFile()
	}
	return 0
}

// Getattr tells size and kind.
func (n *node) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.v.mu.Lock()
	defer n.v.mu.Unlock()
	n.attr(n.o, &out.Attr)
	return 0
}

// Setattr changes a file's size or permissions.
func (n *node) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	size, resize := in.GetSize()
	op := Open
	if resize {
		op = Truncate
	}
	if errno := n.v.begin(op, n.name); errno != 0 {
		return errno
	}
	defer n.v.mu.Unlock()
	if resize {
		n.o.truncate(int64(size))
	}
	if mode, ok := in.GetMode(); ok {
		n.o.mode = n.o.mode&syscall.S_IFMT | mode&0o777
	}
	n.attr(n.o, &out.Attr)
	return 0
}

const keepSize = 1 // FALLOC_FL_KEEP_SIZE

// Allocate sets bytes aside.
func (n *node) Allocate(_ context.Context, _ fs.FileHandle, off, size uint64, mode uint32) syscall.Errno {
	if errno := n.v.begin(Allocate, n.name); errno != 0 {
		return errno
	}
	defer n.v.mu.Unlock()
	if mode&^uint32(keepSize) != 0 {
		return syscall.EOPNOTSUPP
	}
	return n.v.allocate(n.o, int64(off+size), mode&keepSize != 0)
}

// Statfs tells how much room there is.
func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	n.v.mu.Lock()
	defer n.v.mu.Unlock()
	total := n.v.capacity
	if total == 0 {
		total = 1 << 40
	}
	free := uint64(max(total-n.v.used(), 0) / pageSize)
	*out = fuse.StatfsOut{Blocks: uint64(total / pageSize), Bfree: free, Bavail: free, Bsize: pageSize, Frsize: pageSize, NameLen: 255}
	return 0
}
