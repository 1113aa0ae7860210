package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/outbox"
)

// deviceRounds is how often each side is measured: what is written does not depend
// on how fast the machine is.
const deviceRounds = 3

// device measures what a card wears by: bytes written to the device.
func (b *bench) device() (err error) {
	d, dir, err := b.loopDevice()
	if errors.Is(err, errNoLoop) {
		b.skip("device bytes a payload byte", err.Error())
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.remove()) }()
	const batch, commits = 256, 1000
	var ours, theirs, ratios, single []float64
	for i := range deviceRounds {
		b.screen.say("device bytes: round %d of %d", i+1, deviceRounds)
		x, err := b.wear(d, dir, batch, commits, b.oursWear)
		if err != nil {
			return err
		}
		y, err := b.wear(d, dir, batch, commits, b.plainWear)
		if err != nil {
			return err
		}
		z, err := b.wear(d, dir, 1, commits, b.oursWear)
		if err != nil {
			return err
		}
		ours, theirs, ratios, single = append(ours, x), append(theirs, y), append(ratios, x/y), append(single, z)
	}
	b.add("device bytes a payload byte, batches of 256", ours, "×", atMost(2), "journal and metadata included")
	b.add("the same / bbolt with default options", ratios, "×", atMost(0.65), fmt.Sprintf("bbolt: %.2f", median(theirs)))
	b.add("device bytes a payload byte, one record a commit", single, "×", nil, "why there is a wear profile")
	return nil
}

// loopDevice returns the loop device that --dir lies on, or one made for it, and a
// folder there.
func (b *bench) loopDevice() (*image, string, error) {
	if d, ok := deviceUnder(b.dir); ok {
		return d, b.dir, nil
	}
	d, err := b.newImage(1 << 30)
	if err != nil {
		return nil, "", err
	}
	return d, d.at, nil
}

// wear returns bytes written to the device a byte of payload.
func (b *bench) wear(d *image, at string, batch, commits int, write func(dir string, batch, commits int) error) (float64, error) {
	_, before, err := d.bytes()
	if err != nil {
		return 0, err
	}
	dir := filepath.Join(at, "store")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	if err := write(dir, batch, commits); err != nil {
		return 0, err
	}
	_, after, err := d.bytes()
	return float64(after-before) / float64(batch*commits*payload), errors.Join(err, os.RemoveAll(dir))
}

func (b *bench) oursWear(dir string, batch, commits int) error {
	x, err := openBox(dir, func(o *outbox.Options) { o.MaxBytes = 512 << 20 })
	if err != nil {
		return err
	}
	ds := drafts(batch)
	for range commits {
		if _, err := x.Append(context.Background(), ds...); err != nil {
			return errors.Join(err, x.stop())
		}
	}
	return x.stop()
}

func (b *bench) plainWear(dir string, batch, commits int) error {
	s, err := openPlain(dir, nil)
	if err != nil {
		return err
	}
	data := noise(batch)
	for range commits {
		if err := s.put(data); err != nil {
			return errors.Join(err, s.db.Close())
		}
	}
	return s.db.Close()
}
