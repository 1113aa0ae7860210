package boltpage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// makeFile has bbolt write a few buckets over several transactions.
func makeFile(tb testing.TB, keys int) (path string, want map[string]string) {
	tb.Helper()
	path, want = filepath.Join(tb.TempDir(), "x.db"), map[string]string{}
	db, err := bolt.Open(path, 0o600, &bolt.Options{PageSize: PageSize, NoFreelistSync: true, NoSync: true})
	if err != nil {
		tb.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for done := 0; done < keys; done += 50 {
		err := db.Update(func(tx *bolt.Tx) error {
			small, err := tx.CreateBucketIfNotExists([]byte("small"))
			if err != nil {
				return err
			}
			if err := small.Put([]byte("done"), fmt.Append(nil, done)); err != nil {
				return err
			}
			b, err := tx.CreateBucketIfNotExists([]byte("large"))
			for i := 0; i < 50 && err == nil; i++ {
				k := binary.BigEndian.AppendUint64(nil, uint64(done+i+1))
				n := rng.IntN(300)
				if rng.IntN(40) == 0 {
					n = 9000 // overflow pages
				}
				v := bytes.Repeat([]byte{byte(done + i)}, n)
				want[string(k)] = string(v)
				err = b.Put(k, v)
			}
			return err
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		tb.Fatal(err)
	}
	return path, want
}

func load(tb testing.TB, path string) []byte {
	tb.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func openBytes(data []byte) (*File, error) { return Open(bytes.NewReader(data), int64(len(data))) }

// What bbolt wrote is read as bbolt has it: by walking, by key, and by what is below a key.
func TestReadsWhatBoltWrote(t *testing.T) {
	path, want := makeFile(t, 2000)
	f, err := openBytes(load(t, path))
	if err != nil || f.Torn {
		t.Fatalf("%v, torn %t", err, f.Torn)
	}
	tree, err := f.Bucket([]byte("large"))
	if err != nil {
		t.Fatal(err)
	}
	c, n := tree.Cursor(), 0
	k, v, err := c.Floor(nil)
	for ; err == nil && k != nil; k, v, err = c.Next() {
		n++
		if binary.BigEndian.Uint64(k) != uint64(n) || want[string(k)] != string(v) {
			t.Fatalf("key %x at place %d", k, n)
		}
	}
	if err != nil || n != len(want) {
		t.Fatalf("%d keys of %d, %v", n, len(want), err)
	}
	if k, _, err := tree.Cursor().Floor([]byte{0xff}); err != nil || binary.BigEndian.Uint64(k) != uint64(n) {
		t.Fatalf("last is %x, %v", k, err)
	}
	for k := range want {
		if v, err := tree.Get([]byte(k)); err != nil || string(v) != want[k] {
			t.Fatalf("get %x: %v", k, err)
		}
		after := binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64([]byte(k)))
		if got, _, err := tree.Cursor().Floor(append(after, 'x')); err != nil || string(got) != k {
			t.Fatalf("floor of %x: %x, %v", after, got, err)
		}
	}
	small, err := f.Bucket([]byte("small"))
	if err != nil {
		t.Fatal(err)
	}
	if v, err := small.Get([]byte("done")); err != nil || string(v) != "1950" {
		t.Fatalf("inline bucket: %q, %v", v, err)
	}
	if _, err := f.Bucket([]byte("none")); !errors.Is(err, ErrNoBucket) {
		t.Fatalf("no such bucket: %v", err)
	}
}

// Leaves finds every key without the tree, and At finds each again.
func TestLeavesFindEverything(t *testing.T) {
	path, want := makeFile(t, 500)
	data := load(t, path)
	r, found := bytes.NewReader(data), map[string]bool{}
	Leaves(r, int64(len(data)), func(page uint64, elem int, k, v []byte) bool {
		if want[string(k)] == string(v) && len(k) == 8 {
			found[string(k)] = true
			if k2, v2 := At(r, int64(len(data)), page, elem); !bytes.Equal(k, k2) || !bytes.Equal(v, v2) {
				t.Fatalf("at page %d element %d: %x", page, elem, k2)
			}
		}
		return true
	})
	if len(found) != len(want) {
		t.Fatalf("%d keys of %d", len(found), len(want))
	}
}

// walk reads all of a file, as far as it goes.
func walk(data []byte) (keys int, err error) {
	f, err := openBytes(data)
	if err != nil {
		return 0, err
	}
	for _, name := range []string{"large", "small"} {
		tree, err := f.Bucket([]byte(name))
		if err != nil {
			return keys, err
		}
		c := tree.Cursor()
		k, _, err := c.Floor(nil)
		for ; err == nil && k != nil; k, _, err = c.Next() {
			keys++
		}
		if err != nil {
			return keys, err
		}
	}
	return keys, nil
}

// A file with wrong bytes anywhere is read to an error or to the end: never to a
// panic, and never in a circle.
func TestWrongBytesEndInErrors(t *testing.T) {
	path, want := makeFile(t, 300)
	data := load(t, path)
	rng := rand.New(rand.NewPCG(1, 1))
	broken := 0
	for range 3000 {
		b := bytes.Clone(data)
		for range 1 + rng.IntN(3) {
			at := rng.IntN(len(b))
			if rng.IntN(2) == 0 {
				at = at/PageSize*PageSize + rng.IntN(200) // headers
			}
			b[at] ^= byte(1 + rng.IntN(255))
		}
		keys, err := walk(b)
		if err != nil {
			broken++
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNoBucket) {
				t.Fatal(err)
			}
		}
		if keys > len(want)+1 {
			t.Fatalf("%d keys of %d", keys, len(want)+1)
		}
	}
	if broken == 0 {
		t.Fatal("nothing was ever wrong")
	}
}

// A branch that points to itself or to its parent is found out.
func TestCirclesAreFoundOut(t *testing.T) {
	path, _ := makeFile(t, 2000)
	data := load(t, path)
	circles := 0
	for id := 2; (id+1)*PageSize <= len(data); id++ {
		page := data[id*PageSize:]
		if binary.LittleEndian.Uint16(page[8:]) != flagBranch || binary.LittleEndian.Uint64(page) != uint64(id) {
			continue
		}
		b := bytes.Clone(data)
		for i := range int(binary.LittleEndian.Uint16(page[10:])) {
			binary.LittleEndian.PutUint64(b[id*PageSize+headerSize+i*branchElem+8:], uint64(id))
		}
		if _, err := walk(b); err != nil {
			circles++
		}
	}
	if circles == 0 {
		t.Fatal("no branch in use was found")
	}
}

// When the newer meta page is wrong the older one is taken, and Torn says so.
func TestTornMetaIsSaid(t *testing.T) {
	path, _ := makeFile(t, 100)
	for i := range 2 {
		data := load(t, path)
		data[i*PageSize+headerSize+20] ^= 1
		f, err := openBytes(data)
		if err != nil || !f.Torn {
			t.Fatalf("meta %d: %v, torn %t", i, err, err == nil && f.Torn)
		}
	}
	data := load(t, path)
	data[headerSize+20] ^= 1
	data[PageSize+headerSize+20] ^= 1
	if _, err := openBytes(data); !errors.Is(err, ErrDamaged) {
		t.Fatalf("both metas wrong: %v", err)
	}
}

func FuzzWalk(f *testing.F) {
	path, _ := makeFile(f, 50)
	f.Add(load(f, path)[:32<<10])
	f.Fuzz(func(t *testing.T, data []byte) {
		for i := range 2 { // a right checksum, or it would get no further
			if page := data[min(len(data), i*PageSize):]; len(page) >= PageSize {
				seal(page)
			}
		}
		_, _ = walk(data)
		Leaves(bytes.NewReader(data), int64(len(data)), func(uint64, int, []byte, []byte) bool { return true })
	})
}

// seal gives a meta page its checksum.
func seal(page []byte) {
	h := fnv.New64a()
	_, _ = h.Write(page[headerSize : headerSize+checkedMeta])
	binary.LittleEndian.PutUint64(page[headerSize+checkedMeta:], h.Sum64())
}
