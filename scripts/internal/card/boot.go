package card

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem"
	"github.com/diskfs/go-diskfs/filesystem/fat16"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
	"github.com/diskfs/go-diskfs/partition/mbr"
)

const (
	sector = 512
	// head is what is looked at for a partition table, and what is written last.
	head = 1 << 20
	// maxBoot keeps a wrong table from filling this machine's disk.
	maxBoot = 4 << 30
)

// Errors of an image that cannot become a card.
var (
	ErrNoBoot    = errors.New("the image has no FAT boot partition of a Raspberry Pi")
	ErrTruncated = errors.New("the image ends too early")
	ErrFull      = errors.New("the image's boot partition is full")
)

// Boot is the beginning of an image, up to the end of its boot partition, in a
// file of its own: what is added goes there. Make it with OpenBoot, and Close it.
type Boot struct {
	Need int64 // bytes that a card must have for the whole image

	file  *os.File
	size  int64 // of the file: where the boot partition ends
	start int64 // of the boot partition
	fs    filesystem.FileSystem
}

// OpenBoot reads the beginning of an image from r into a temporary file in dir,
// and finds the boot partition. What follows in r is the rest of the image.
func OpenBoot(ctx context.Context, r io.Reader, dir string) (_ *Boot, err error) {
	f, err := os.CreateTemp(dir, "holdfast-boot-*")
	if err != nil {
		return nil, err
	}
	b := &Boot{file: f}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if err := b.take(ctx, r, head); err != nil {
		return nil, err
	}
	length, err := b.table()
	if err != nil {
		return nil, err
	}
	if err := b.take(ctx, r, b.start+length); err != nil {
		return nil, err
	}
	if b.fs, err = openFAT(f, b.start, length); err != nil {
		return nil, err
	}
	// What tells a Pi's boot partition from any other.
	if _, err := b.Read("cmdline.txt"); err != nil {
		return nil, fmt.Errorf("%w: its first FAT partition has no cmdline.txt (%w)", ErrNoBoot, err)
	}
	return b, nil
}

// take lets the file grow to size bytes.
func (b *Boot) take(ctx context.Context, r io.Reader, size int64) error {
	if size <= b.size {
		return nil
	}
	n, err := io.Copy(b.file, io.LimitReader(&meter{ctx: ctx, r: r}, size-b.size))
	b.size += n
	switch {
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("read image: %w", err)
	case b.size < size:
		return fmt.Errorf("%w: after %d bytes, in front of the end of the boot partition at %d", ErrTruncated, b.size, size)
	}
	return nil
}

// table finds the boot partition and returns its length.
func (b *Boot) table() (length int64, err error) {
	t, err := mbr.Read(file.New(b.file, true), sector, sector)
	if err != nil {
		return 0, fmt.Errorf("%w: no MBR partition table (%w)", ErrNoBoot, err)
	}
	for _, p := range t.Partitions {
		if p == nil || p.Type == mbr.Empty || p.Size == 0 {
			continue
		}
		start, size := int64(p.Start)*sector, int64(p.Size)*sector
		b.Need = max(b.Need, start+size)
		switch p.Type {
		case 0x04, 0x06, 0x0b, 0x0c, 0x0e, 0xef: // FAT16 and FAT32 in their variants, EFI
			if b.start == 0 {
				b.start, length = start, size
			}
		case 0xee:
			return 0, fmt.Errorf("%w: it has a GPT; a Pi's image has an MBR", ErrNoBoot)
		}
	}
	if b.start == 0 || b.start+length > maxBoot {
		return 0, ErrNoBoot
	}
	return length, nil
}

func openFAT(f *os.File, start, size int64) (filesystem.FileSystem, error) {
	fat, err := fat32.Read(file.New(f, false), size, start, sector)
	if err == nil {
		return fat, nil
	}
	small, err16 := fat16.Read(file.New(f, false), size, start, sector)
	if err16 == nil {
		return small, nil
	}
	return nil, fmt.Errorf("%w: %w", ErrNoBoot, errors.Join(err, err16))
}

// Names returns what is in the boot partition's top folder.
func (b *Boot) Names() ([]string, error) {
	entries, err := b.fs.ReadDir(".")
	if err != nil {
		return nil, fmt.Errorf("read boot partition: %w", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// Label returns the boot partition's name.
func (b *Boot) Label() string { return strings.TrimSpace(b.fs.Label()) }

// Read returns a file of the boot partition. It is fs.ErrNotExist when there is
// none.
func (b *Boot) Read(name string) ([]byte, error) {
	names, err := b.Names()
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if strings.EqualFold(n, name) {
			f, err := b.fs.OpenFile("/"+n, os.O_RDONLY)
			if err != nil {
				return nil, fmt.Errorf("read %s on the boot partition: %w", name, err)
			}
			defer f.Close()
			return io.ReadAll(f)
		}
	}
	return nil, fmt.Errorf("read %s on the boot partition: %w", name, fs.ErrNotExist)
}

// Write puts a file into the boot partition's top folder, or replaces one there.
func (b *Boot) Write(name string, r io.Reader) error {
	f, err := b.fs.OpenFile("/"+name, os.O_CREATE|os.O_RDWR|os.O_TRUNC)
	if err != nil {
		return b.failed(name, err)
	}
	if _, err := io.Copy(f, r); err != nil {
		return errors.Join(b.failed(name, err), f.Close())
	}
	return f.Close()
}

func (b *Boot) failed(name string, err error) error {
	if strings.Contains(err.Error(), "no space left") { // the library has no name for it
		return fmt.Errorf("%w: %s does not fit", ErrFull, name)
	}
	return fmt.Errorf("write %s to the boot partition: %w", name, err)
}

// Finish makes what was written complete. Nothing can be added afterwards.
func (b *Boot) Finish() error {
	if err := b.fs.Close(); err != nil {
		return fmt.Errorf("write boot partition: %w", err)
	}
	if b.fs.Type() == filesystem.TypeFat32 {
		return b.forgetFree()
	}
	return nil
}

// forgetFree marks the FAT's own note of how much is free as unknown: the library
// does not keep it up to date, and unknown is better than wrong.
func (b *Boot) forgetFree() error {
	boot := make([]byte, sector)
	if _, err := b.file.ReadAt(boot, b.start); err != nil {
		return err
	}
	info := int64(binary.LittleEndian.Uint16(boot[48:])) // sector of FSInfo
	if info == 0 || info == 0xffff {
		return nil
	}
	_, err := b.file.WriteAt([]byte("\xff\xff\xff\xff\xff\xff\xff\xff"), b.start+info*sector+488)
	return err
}

// Close removes the temporary file.
func (b *Boot) Close() error {
	return errors.Join(b.file.Close(), os.Remove(b.file.Name()))
}
