package card_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/holdfast-edge/holdfast/scripts/internal/card"
	"github.com/holdfast-edge/holdfast/scripts/internal/card/cardtest"
)

const (
	mb       = 1 << 20
	bootAt   = cardtest.BootAt
	bootSize = cardtest.BootSize
	whole    = cardtest.Size
)

// disk is a card in memory that fails when told to.
type disk struct {
	bytes  []byte
	gone   int64 // writes from here on fail: it was pulled out; 0: never
	flips  int64 // what is written here is stored wrong; 0: nowhere
	synced int
}

func (d *disk) WriteAt(b []byte, at int64) (int, error) {
	if end := at + int64(len(b)); d.gone > 0 && end > d.gone || end > int64(len(d.bytes)) {
		return 0, syscall.EIO
	}
	n := copy(d.bytes[at:], b)
	if d.flips > 0 && at <= d.flips && d.flips < at+int64(n) {
		d.bytes[d.flips] ^= 1
	}
	return n, nil
}

func (d *disk) ReadAt(b []byte, at int64) (int, error) { return copy(b, d.bytes[at:]), nil }

func (d *disk) Sync() error { d.synced++; return nil }

func newDisk() *disk { return &disk{bytes: bytes.Repeat([]byte{0xee}, whole+8*mb)} }

// blank reports whether nobody would take the disk for a card: there is no partition table.
func (d *disk) blank() bool { return bytes.Equal(d.bytes[:512], make([]byte, 512)) }

func open(t *testing.T, image io.Reader) *card.Boot {
	t.Helper()
	b, err := card.OpenBoot(t.Context(), image, t.TempDir())
	check(t, err)
	t.Cleanup(func() { check(t, b.Close()) })
	return b
}

func silent(card.Stage, int64, int64) {}

// An image comes out the same from every form that it may be compressed in.
func TestEveryFormIsRead(t *testing.T) {
	want := bytes.Repeat([]byte("an image of something "), 100_000)
	f := func(name string, compress func(io.Writer) (io.WriteCloser, error)) {
		t.Helper()
		path := filepath.Join(t.TempDir(), name)
		out, err := os.Create(path)
		check(t, err)
		w, err := compress(out)
		check(t, err)
		_, err = w.Write(want)
		check(t, err)
		check(t, w.Close())
		r, err := card.Open(path)
		check(t, err)
		got, err := io.ReadAll(r)
		check(t, errors.Join(err, r.Close()))
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes came out, %d went in", name, len(got), len(want))
		}
	}
	f("a.img", func(w io.Writer) (io.WriteCloser, error) { return w.(io.WriteCloser), nil })
	f("a.img.gz", func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil })
	f("a.img.xz", func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) })
	f("a.img.zst", func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) })
}

// A ZIP archive, and what has no bytes, are refused with what to do.
func TestOtherFormsAreRefused(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "a")
		check(t, os.WriteFile(path, []byte(text), 0o600))
		if _, err := card.Open(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	f("PK\x03\x04rest", "unpack it")
	f("tiny", "less than six bytes")
}

// The digest beside an image is found as sha256sum writes it, for that image alone.
func TestDigestBesideTheImage(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.img")
	check(t, os.WriteFile(path, []byte("image"), 0o600))
	sum := sha256.Sum256([]byte("image"))
	want := hex.EncodeToString(sum[:])
	got, err := card.Sum(t.Context(), path, nil)
	check(t, err)
	if got != want {
		t.Errorf("sum %s, want %s", got, want)
	}
	if _, err := card.Expected(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	for _, text := range []string{want + "\n", want + "  a.img\n", "00  b.img\n" + want + " *a.img\n", strings.ToUpper(want)} {
		check(t, os.WriteFile(path+".sha256", []byte(text), 0o600))
		if got, err := card.Expected(path); err != nil || got != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	check(t, os.WriteFile(path+".sha256", []byte("00  b.img\n"), 0o600))
	if got, err := card.Expected(path); err == nil {
		t.Errorf("the digest of another file was taken: %s", got)
	}
}

// A card holds the image, with what was put onto its boot partition, and nothing else of the image is changed.
func TestWrittenCardIsTheImageWithItsAdditions(t *testing.T) {
	image := cardtest.Image(t)
	stream := bytes.NewReader(image)
	b := open(t, stream)
	if b.Need != whole || b.Label() != "bootfs" {
		t.Errorf("needs %d, label %q", b.Need, b.Label())
	}
	big := bytes.Repeat([]byte("0123456789abcdef"), 10*mb/16)
	check(t, b.Write("holdfast.tar", bytes.NewReader(big)))
	check(t, b.Write("cmdline.txt", strings.NewReader("short\n")))
	check(t, b.Finish())
	d := newDisk()
	check(t, card.Write(t.Context(), d, b, stream, silent))
	if !bytes.Equal(d.bytes[bootAt+bootSize:whole], image[bootAt+bootSize:]) || !bytes.Equal(d.bytes[:bootAt], image[:bootAt]) {
		t.Error("something beside the boot partition was changed")
	}
	again := open(t, bytes.NewReader(d.bytes))
	for name, want := range map[string][]byte{"holdfast.tar": big, "cmdline.txt": []byte("short\n"), "CMDLINE.TXT": []byte("short\n")} {
		if got, err := again.Read(name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d: %v", name, len(got), len(want), err)
		}
	}
}

// What is no image of a Pi is refused before any card is touched.
func TestImagesWithoutBootPartitionAreRefused(t *testing.T) {
	f := func(name string, want error, change func(image []byte) []byte) {
		t.Helper()
		_, err := card.OpenBoot(t.Context(), bytes.NewReader(change(cardtest.Image(t))), t.TempDir())
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	f("no table", card.ErrNoBoot, func(i []byte) []byte { clear(i[:512]); return i })
	f("no FAT type", card.ErrNoBoot, func(i []byte) []byte { i[446+4] = 0x83; return i })
	f("no FAT inside", card.ErrNoBoot, func(i []byte) []byte { clear(i[bootAt : bootAt+mb]); return i })
	f("GPT", card.ErrNoBoot, func(i []byte) []byte { i[446+4] = 0xee; return i })
	f("no cmdline.txt", card.ErrNoBoot, func(i []byte) []byte {
		return bytes.ReplaceAll(i, []byte("c\x00m\x00d\x00"), []byte("o\x00l\x00d\x00")) // its long name
	})
	f("cut in the table", card.ErrTruncated, func(i []byte) []byte { return i[:mb/2] })
	f("cut in the boot partition", card.ErrTruncated, func(i []byte) []byte { return i[:bootAt+mb] })
}

// What does not fit onto the boot partition is told of by name.
func TestFullBootPartition(t *testing.T) {
	b := open(t, bytes.NewReader(cardtest.Image(t)))
	err := b.Write("holdfast.tar", io.LimitReader(zeros{}, bootSize+mb))
	if !errors.Is(err, card.ErrFull) || !strings.Contains(err.Error(), "holdfast.tar") {
		t.Errorf("error = %v", err)
	}
}

// Whatever goes wrong while a card is written, it is an error, and the card has no partition table: not even the one from before.
func TestUnfinishedCardHasNoPartitionTable(t *testing.T) {
	f := func(name string, want error, prepare func(d *disk, image []byte) (context.Context, []byte)) {
		t.Helper()
		d, image := newDisk(), cardtest.Image(t)
		ctx, image := prepare(d, image)
		stream := bytes.NewReader(image)
		b := open(t, stream)
		check(t, b.Finish())
		err := card.Write(ctx, d, b, stream, silent)
		if !errors.Is(err, want) || !d.blank() {
			t.Errorf("%s: %v, want %v; blank: %t", name, err, want, d.blank())
		}
	}
	f("the card vanishes half-way", syscall.EIO, func(d *disk, i []byte) (context.Context, []byte) {
		d.gone = bootAt + 20*mb
		return t.Context(), i
	})
	f("the image ends too early", card.ErrTruncated, func(_ *disk, i []byte) (context.Context, []byte) {
		return t.Context(), i[:whole-mb]
	})
	f("the card stores something else", card.ErrDiffers, func(d *disk, i []byte) (context.Context, []byte) {
		d.flips = whole - 5
		return t.Context(), i
	})
	f("the card is smaller than it says", syscall.EIO, func(d *disk, i []byte) (context.Context, []byte) {
		d.bytes = d.bytes[:whole-mb]
		return t.Context(), i
	})
	f("interrupted", context.Canceled, func(_ *disk, i []byte) (context.Context, []byte) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		return ctx, i
	})
}

// The negative control of the above: without a fault the same card has its partition table.
func TestFinishedCardHasItsPartitionTable(t *testing.T) {
	d, stream := newDisk(), bytes.NewReader(cardtest.Image(t))
	b := open(t, stream)
	check(t, b.Finish())
	var stages []string
	check(t, card.Write(t.Context(), d, b, stream, func(s card.Stage, done, total int64) {
		if done == total {
			stages = append(stages, string(s))
		}
	}))
	if d.blank() || d.synced < 3 || fmt.Sprint(stages) != "[writing verifying]" {
		t.Errorf("blank: %t, flushed %d times, stages %v", d.blank(), d.synced, stages)
	}
}

// A compressed image that was cut is an error of reading it, also without a digest.
func TestTruncatedArchive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.img.zst")
	z, err := zstd.NewWriter(nil)
	check(t, err)
	packed := z.EncodeAll(cardtest.Image(t), nil)
	check(t, os.WriteFile(path, packed[:len(packed)-len(packed)/4], 0o600))
	stream, err := card.Open(path)
	check(t, err)
	defer stream.Close()
	b := open(t, stream)
	check(t, b.Finish())
	d := newDisk()
	if err := card.Write(t.Context(), d, b, stream, silent); err == nil || !d.blank() {
		t.Errorf("error = %v, blank: %t", err, d.blank())
	}
}

// A file has its name only when it is whole.
func TestFileHasItsNameWhenDone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "card.img")
	f, err := card.NewFile(path)
	check(t, err)
	_, err = f.WriteAt([]byte("card"), 0)
	check(t, errors.Join(err, f.Sync()))
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is there before it is done: %v", err)
	}
	check(t, f.Done())
	if b, err := os.ReadFile(path); err != nil || string(b) != "card" {
		t.Errorf("%q, %v", b, err)
	}
	f, err = card.NewFile(path + "2")
	check(t, err)
	check(t, f.Abandon())
	if left, err := filepath.Glob(path + "2*"); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
