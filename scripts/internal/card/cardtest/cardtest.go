// Package cardtest makes small images that look like Raspberry Pi OS, for tests.
package cardtest

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
)

// Where things lie in an image, in bytes.
const (
	BootAt   = 4 << 20
	BootSize = 40 << 20
	Size     = BootAt + BootSize + rootSize

	rootSize = 12 << 20
)

// Image makes an image: an MBR, a FAT32 boot partition with cmdline.txt, and a root
// of random bytes, the same each time.
func Image(t *testing.T) []byte {
	t.Helper()
	once.Do(func() { image = build(t) })
	if image == nil {
		t.Fatal("the image could not be made: see the test before")
	}
	return bytes.Clone(image)
}

// Making it takes longer than most that is done with it.
var (
	once  sync.Once
	image []byte
)

func build(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	check(t, err)
	check(t, f.Truncate(Size))
	entry := func(kind byte, start, size uint32) []byte {
		e := make([]byte, 16)
		e[4] = kind
		for b := range 4 {
			e[8+b], e[12+b] = byte(start>>(8*b)), byte(size>>(8*b))
		}
		return e
	}
	table := append(entry(0x0c, BootAt/512, BootSize/512), entry(0x83, (BootAt+BootSize)/512, rootSize/512)...)
	_, err = f.WriteAt(table, 446)
	check(t, err)
	_, err = f.WriteAt([]byte{0x55, 0xaa}, 510)
	check(t, err)
	fat, err := fat32.Create(file.New(f, false), BootSize, BootAt, 512, "bootfs", false)
	check(t, err)
	w, err := fat.OpenFile("/cmdline.txt", os.O_CREATE|os.O_RDWR)
	check(t, err)
	_, err = w.Write([]byte("console=tty1 root=LABEL=rootfs rootwait\n"))
	check(t, err)
	check(t, w.Close())
	check(t, fat.Close())
	root := make([]byte, rootSize)
	seed := rand.NewChaCha8([32]byte{1})
	_, err = seed.Read(root)
	check(t, err)
	_, err = f.WriteAt(root, BootAt+BootSize)
	check(t, err)
	check(t, f.Close())
	b, err := os.ReadFile(path)
	check(t, err)
	return b
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
