package powercut

import (
	"bytes"
	"syscall"
	"testing"
)

// file makes a file with one page of a letter in it, its name synced if durable.
func file(v *volume, name string, letter byte, durable bool) *object {
	o := v.newObject(syscall.S_IFREG | 0o600)
	v.apply(entry{v.root, name, o})
	_ = v.write(o, bytes.Repeat([]byte{letter}, pageSize), 0)
	if durable {
		o.syncFile()
		v.syncDir(v.root)
	}
	return o
}

func content(o *object) []byte {
	b := make([]byte, pageSize)
	return b[:o.read(b, 0)]
}

// What was synced, bytes and name, is there after a cut, whatever else was under way.
func TestSyncedSurvivesEveryCut(t *testing.T) {
	for seed := range uint64(300) {
		v := newVolume(seed)
		a := file(v, "a", 'a', true)
		_ = v.write(a, bytes.Repeat([]byte{'b'}, pageSize), pageSize)
		file(v, "other", 'o', false)
		v.cut()
		got := v.root.names["a"]
		if got == nil || !bytes.Equal(content(got)[:pageSize], bytes.Repeat([]byte{'a'}, pageSize)) {
			t.Fatalf("seed %d: what was synced is gone", seed)
		}
	}
}

// What was not synced is lost in some cuts, kept in others, and in others again
// torn, at the edges of sectors only.
func TestUnsyncedIsLostKeptOrTorn(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(300) {
		v := newVolume(seed)
		o := file(v, "a", 'a', true)
		_ = v.write(o, bytes.Repeat([]byte{'b'}, pageSize), 0)
		v.cut()
		b := content(v.root.names["a"])
		written := 0
		for s := 0; s < pageSize; s += sector {
			switch one := b[s : s+sector]; {
			case bytes.Count(one, []byte{'b'}) == sector:
				written++
			case bytes.Count(one, []byte{'a'}) != sector:
				t.Fatalf("seed %d: a sector is torn", seed)
			}
		}
		switch written {
		case 0:
			seen["lost"]++
		case pageSize / sector:
			seen["kept"]++
		default:
			seen["torn"]++
		}
	}
	if len(seen) != 3 {
		t.Fatalf("%v", seen)
	}
}

// A name that was not synced may be gone; a rename is done or not, never half.
func TestNamesChangeWholeOrNotAtAll(t *testing.T) {
	made, renamed := 0, 0
	for seed := range uint64(300) {
		v := newVolume(seed)
		old, young := file(v, "name", 'o', true), file(v, "temp", 'y', true)
		v.apply(entry{v.root, "temp", nil}, entry{v.root, "name", young})
		file(v, "fresh", 'f', false)
		v.cut()
		names := v.root.names
		switch {
		case names["name"] == young && names["temp"] == nil:
			renamed++
		case names["name"] != old || names["temp"] != young:
			t.Fatalf("seed %d: half a rename: %v", seed, names)
		}
		if names["fresh"] != nil {
			made++
		}
	}
	if made == 0 || made == 300 || renamed == 0 || renamed == 300 {
		t.Fatalf("of 300 cuts the new name was left by %d, the rename by %d", made, renamed)
	}
}

// While the power is off everything fails, and a fault fails what it is told to.
func TestOperationsFailAsToldTo(t *testing.T) {
	v := newVolume(1)
	v.fault = func(op Op, name string) syscall.Errno {
		if op == Sync && name == "a" {
			return syscall.EIO
		}
		return 0
	}
	if errno := v.begin(Sync, "a"); errno != syscall.EIO {
		t.Fatalf("a failing fsync: %v", errno)
	}
	if errno := v.begin(Sync, "b"); errno != 0 {
		t.Fatalf("another file's: %v", errno)
	}
	v.cut()
	v.mu.Unlock() // begin left it locked
	if errno := v.begin(Read, "b"); errno != syscall.EIO {
		t.Fatalf("with the power off: %v", errno)
	}
}

// A full disk takes what was set aside for a file and nothing beyond.
func TestCapacityCountsReservations(t *testing.T) {
	v := newVolume(1)
	v.capacity = 4 * pageSize
	o := v.newObject(syscall.S_IFREG | 0o600)
	v.apply(entry{v.root, "a", o})
	if errno := v.allocate(o, 3*pageSize, true); errno != 0 {
		t.Fatal(errno)
	}
	if errno := v.allocate(v.newObject(syscall.S_IFREG), 2*pageSize, true); errno != syscall.ENOSPC {
		t.Fatalf("more than there is: %v", errno)
	}
	page := make([]byte, pageSize)
	for i := range int64(4) {
		if errno := v.write(o, page, i*pageSize); errno != 0 {
			t.Fatalf("page %d of 4: %v", i, errno)
		}
	}
	if errno := v.write(o, page, 4*pageSize); errno != syscall.ENOSPC {
		t.Fatalf("a fifth page: %v", errno)
	}
}
