package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/outbox"
)

// device measures what a card wears by: bytes written to the device.
func (b *bench) device() error {
	im, err := b.newImage(1 << 30)
	if errors.Is(err, errNoLoop) {
		b.add("device bytes", 0, "", "", true, "not measured: "+err.Error())
		return nil
	}
	if err != nil {
		return err
	}
	const batch, rounds = 256, 1000
	ours, err := b.wear(im, batch, rounds, b.oursWear)
	var theirs float64
	if err == nil {
		theirs, err = b.wear(im, batch, rounds, b.plainWear)
	}
	single := 0.0
	if err == nil {
		single, err = b.wear(im, 1, 1000, b.oursWear)
	}
	if err = errors.Join(err, im.remove()); err != nil {
		return err
	}
	b.add("device bytes a payload byte, batches of 256", ours, "×", "≤ 2.0", ours <= 2, "journal and metadata included")
	b.add("the same / bbolt with default options", ours/theirs, "×", "≤ 0.65", ours/theirs <= 0.65, fmt.Sprintf("bbolt: %.2f", theirs))
	b.add("device bytes a payload byte, one record a commit", single, "×", "", true, "why there is a wear profile")
	return nil
}

// wear returns bytes written to the device a byte of payload.
func (b *bench) wear(im *image, batch, rounds int, write func(dir string, batch, rounds int) error) (float64, error) {
	_, before, err := im.bytes()
	if err != nil {
		return 0, err
	}
	dir := filepath.Join(im.at, "store")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	if err := write(dir, batch, rounds); err != nil {
		return 0, err
	}
	_, after, err := im.bytes()
	return float64(after-before) / float64(batch*rounds*payload), errors.Join(err, os.RemoveAll(dir))
}

func (b *bench) oursWear(dir string, batch, rounds int) error {
	x, err := openBox(dir, func(o *outbox.Options) { o.MaxBytes = 512 << 20 })
	if err != nil {
		return err
	}
	ds := drafts(batch)
	for range rounds {
		if _, err := x.Append(context.Background(), ds...); err != nil {
			return errors.Join(err, x.stop())
		}
	}
	return x.stop()
}

func (b *bench) plainWear(dir string, batch, rounds int) error {
	s, err := openPlain(dir, nil)
	if err != nil {
		return err
	}
	data := noise(batch)
	for range rounds {
		if err := s.put(data); err != nil {
			return errors.Join(err, s.db.Close())
		}
	}
	return s.db.Close()
}
