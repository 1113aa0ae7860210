package boltpage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// inUse returns the pages of a kind that say who they are.
func inUse(data []byte, flags uint16) (ids []int) {
	for id := 2; (id+1)*PageSize <= len(data); id++ {
		page := data[id*PageSize:]
		if binary.LittleEndian.Uint16(page[8:]) == flags && binary.LittleEndian.Uint64(page) == uint64(id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// Each field of a page's header and of its elements may hold any number: what comes
// out is an error, or keys and values that lie within the page.
func TestEveryFieldMayLie(t *testing.T) {
	path, _ := makeFile(t, 150)
	data := load(t, path)
	fields := []struct {
		name string
		at   int
		size int
	}{
		{"id", 0, 8},
		{"flags", 8, 2},
		{"count", 10, 2},
		{"overflow", 12, 4},
		{"first element's flags or position", 16, 4},
		{"its position or size", 20, 4},
		{"its key's size or page", 24, 4},
		{"its value's size or page", 28, 4},
	}
	lies := []uint64{0, 1, 2, 3, 15, 16, 17, 255, 4095, 4096, 1 << 15, 1<<16 - 1, 1 << 20, 1<<22 + 1, 1<<31 - 1, 1<<32 - 1, 1<<63 - 1, 1<<64 - 1}
	wrong := 0
	pages := append(inUse(data, flagLeaf), inUse(data, flagBranch)...)
	if testing.Short() {
		pages = append(pages[:4:4], pages[len(pages)-2:]...)
	}
	for _, id := range pages {
		for _, f := range fields {
			for _, lie := range lies {
				b := bytes.Clone(data[id*PageSize : id*PageSize+64])
				var number [8]byte
				binary.LittleEndian.PutUint64(number[:], lie)
				saved := bytes.Clone(data[id*PageSize+f.at : id*PageSize+f.at+f.size])
				copy(data[id*PageSize+f.at:], number[:f.size])
				if _, err := walk(data); err != nil {
					wrong++
					if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNoBucket) {
						t.Fatalf("page %d, %s is %d: %v", id, f.name, lie, err)
					}
				}
				copy(data[id*PageSize+f.at:], saved)
				if !bytes.Equal(b, data[id*PageSize:id*PageSize+64]) {
					t.Fatal("the test itself damaged the page")
				}
			}
		}
	}
	if wrong == 0 {
		t.Fatal("no lie was ever found out")
	}
}

// A bucket's entry that is none, a root page that is outside, and a bucket inside a
// page that does not fit there are damage; a name that is not there is not.
func TestBucketsThatAreNone(t *testing.T) {
	path, _ := makeFile(t, 100)
	data := load(t, path)
	for _, id := range inUse(data, flagLeaf) {
		page := data[id*PageSize : (id+1)*PageSize]
		at := bytes.Index(page, []byte("large"))
		if at < 0 || binary.LittleEndian.Uint32(page[headerSize:])&flagBucket == 0 {
			continue
		}
		for name, lie := range map[string]func(b []byte){
			"not a bucket":     func(b []byte) { binary.LittleEndian.PutUint32(b[headerSize:], 0) },
			"too short":        func(b []byte) { binary.LittleEndian.PutUint32(b[headerSize+12:], 5) },
			"root outside":     func(b []byte) { binary.LittleEndian.PutUint64(b[at+5:], 1<<40) },
			"root a meta page": func(b []byte) { binary.LittleEndian.PutUint64(b[at+5:], 1) },
			"inline, and none": func(b []byte) { binary.LittleEndian.PutUint64(b[at+5:], 0) },
		} {
			bad := bytes.Clone(data)
			lie(bad[id*PageSize : (id+1)*PageSize])
			f, err := openBytes(bad)
			if err != nil {
				t.Fatal(err)
			}
			tree, err := f.Bucket([]byte("large"))
			if err == nil {
				_, _, err = tree.Cursor().Floor(nil)
			}
			if err != nil && !errors.Is(err, ErrDamaged) {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := f.Bucket([]byte("nobody")); !errors.Is(err, ErrNoBucket) && !errors.Is(err, ErrDamaged) {
				t.Errorf("%s, another bucket: %v", name, err)
			}
		}
	}
}

// A file that ends early, anywhere, is read as far as it goes, and what is missing is
// damage.
func TestFileThatEndsEarly(t *testing.T) {
	path, want := makeFile(t, 400)
	data := load(t, path)
	short := 0
	for n := 0; n < len(data); n += 512 {
		keys, err := walk(data[:n])
		if err == nil && keys < len(want)+1 {
			t.Fatalf("%d bytes of %d: %d keys of %d, and no error", n, len(data), keys, len(want)+1)
		}
		if err != nil {
			if short++; !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNoBucket) {
				t.Fatalf("%d bytes: %v", n, err)
			}
		}
	}
	if short == 0 {
		t.Fatal("nothing was ever missing")
	}
}

// A reader that holds a transaction of bbolt's sees that transaction, whatever is
// committed meanwhile; one whose meta page has been written over is told so.
func TestTransactionStaysWhileItIsHeld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{PageSize: PageSize, NoFreelistSync: true, NoSync: true, InitialMmapSize: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	add := func(n int) {
		t.Helper()
		err := db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("b"))
			if err != nil {
				return err
			}
			return b.Put(binary.BigEndian.AppendUint32(nil, uint32(n)), bytes.Repeat([]byte{byte(n)}, 900))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	count := func(f *File) (n int) {
		t.Helper()
		tree, err := f.Bucket([]byte("b"))
		if err != nil {
			t.Fatal(err)
		}
		c := tree.Cursor()
		k, v, err := c.Floor(nil)
		for ; err == nil && k != nil; k, v, err = c.Next() {
			if len(v) != 900 || v[899] != k[3] {
				t.Fatalf("key %x has a value of another", k)
			}
			n++
		}
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for i := range 20 {
		add(i)
	}
	for round := 20; round < 60; round += 10 {
		tx, err := db.Begin(false)
		if err != nil {
			t.Fatal(err)
		}
		r := bytes.NewReader(load(t, path)) // as it is now
		f, err := OpenTx(r, tx.Size(), uint64(tx.ID()))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			add(round + i)
		}
		if n := count(f); n != round {
			t.Fatalf("%d keys, %d were there", n, round)
		}
		live := bytes.NewReader(load(t, path))
		if _, err := OpenTx(live, tx.Size(), uint64(tx.ID())); !errors.Is(err, ErrMoved) {
			t.Fatalf("ten commits later: %v", err)
		}
		// Its pages are still there all the same: none was used again.
		if n := count(&File{r: live, size: int64(live.Len()), meta: f.meta}); n != round {
			t.Fatalf("%d keys, %d were there", n, round)
		}
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
	}
}
