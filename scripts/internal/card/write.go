package card

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

// chunk is how much is written or read at a time: large enough for a card, and a
// multiple of every sector size there is.
const chunk = 4 << 20

// ErrDiffers says that a card does not hold what was written to it.
var ErrDiffers = errors.New("what was read back differs from what was written")

// Target is what a card is written to.
type Target interface {
	io.ReaderAt
	io.WriterAt
	// Sync returns when what was written is on the medium, and makes sure that
	// ReadAt reads from there.
	Sync() error
}

// Stage names what Write is doing.
type Stage string

// The stages of Write.
const (
	Writing   Stage = "writing"
	Verifying Stage = "verifying"
)

// Progress is told how many bytes of how many are done.
type Progress func(stage Stage, done, total int64)

// Write writes boot and what follows it in the image to the target, reads
// everything back, and only then writes the first sectors, with the partition
// table. Whenever it returns an error the target begins with zeros.
func Write(ctx context.Context, t Target, boot *Boot, rest io.Reader, p Progress) error {
	first := make([]byte, head)
	if _, err := boot.file.ReadAt(first, 0); err != nil {
		return fmt.Errorf("read prepared boot partition: %w", err)
	}
	w := &writer{ctx: ctx, target: t, total: boot.Need, progress: p}
	if err := w.first(make([]byte, head)); err != nil {
		return err
	}
	w.at = head
	written := sha256.New()
	stream := io.TeeReader(io.MultiReader(io.NewSectionReader(boot.file, head, boot.size-head), rest), written)
	if err := w.copy(stream); err != nil {
		return err
	}
	if w.at < boot.Need {
		return fmt.Errorf("%w: after %d of %d bytes; the card is not usable", ErrTruncated, w.at, boot.Need)
	}
	if err := t.Sync(); err != nil {
		return w.lost("flush", err)
	}
	if err := w.verify(written.Sum(nil)); err != nil {
		return err
	}
	return w.first(first)
}

type writer struct {
	ctx      context.Context
	target   Target
	at       int64 // everything in front of it is written
	total    int64
	progress Progress
}

// first writes the first sectors and looks at them again.
func (w *writer) first(b []byte) error {
	if _, err := w.target.WriteAt(b, 0); err != nil {
		return w.lost("write", err)
	}
	if err := w.target.Sync(); err != nil {
		return w.lost("flush", err)
	}
	got := make([]byte, len(b))
	if _, err := w.target.ReadAt(got, 0); err != nil {
		return w.lost("read back", err)
	}
	if !bytes.Equal(got, b) {
		return fmt.Errorf("%w, in the first sectors: the card is worn out, or a counterfeit", ErrDiffers)
	}
	return nil
}

func (w *writer) copy(r io.Reader) error {
	buf := make([]byte, chunk)
	for {
		n, err := io.ReadFull(r, buf)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return fmt.Errorf("read image after %d bytes: %w; the card is not usable", w.at, err)
		}
		if err := w.ctx.Err(); err != nil {
			return fmt.Errorf("stopped after %d of %d bytes; the card is not usable: %w", w.at, w.total, err)
		}
		if n > 0 {
			padded := (n + sector - 1) / sector * sector // a device takes whole sectors
			clear(buf[n:padded])
			if _, err := w.target.WriteAt(buf[:padded], w.at); err != nil {
				return w.lost("write", err)
			}
		}
		w.at += int64(n)
		w.progress(Writing, w.at, max(w.total, w.at))
		if last {
			return nil
		}
	}
}

func (w *writer) verify(want []byte) error {
	h := sha256.New()
	buf := make([]byte, chunk)
	for at := int64(head); at < w.at; {
		if err := w.ctx.Err(); err != nil {
			return fmt.Errorf("stopped while verifying; the card is not usable: %w", err)
		}
		n := min(int64(len(buf)), (w.at-at+sector-1)/sector*sector)
		if _, err := w.target.ReadAt(buf[:n], at); err != nil {
			return w.lost("read back", err)
		}
		n = min(n, w.at-at)
		h.Write(buf[:n])
		at += n
		w.progress(Verifying, at, w.at)
	}
	if !bytes.Equal(h.Sum(nil), want) {
		return fmt.Errorf("%w: the card is worn out, or smaller than it says", ErrDiffers)
	}
	return nil
}

func (w *writer) lost(doing string, err error) error {
	return fmt.Errorf("%s at byte %d of %d: %w; the card is not usable", doing, w.at, w.total, err)
}
