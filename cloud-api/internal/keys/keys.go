// Package keys holds the cloud's signing keys: a root, whose fingerprint every
// enrolment token carries and every device pins, and receipt keys, which the root
// certifies and which sign what devices delete by. A key file is written whole or
// not at all, and never with permissions for anyone else.
package keys

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

const (
	// Validity is how long a receipt key is certified for. Devices with a clock
	// they trust refuse it afterwards, so it is renewed at half of it.
	Validity = 2 * 365 * 24 * time.Hour

	// rootValidity is how long the root before it vouches for a root: as long as
	// any device may live that pinned the older one.
	rootValidity = 30 * 365 * 24 * time.Hour

	// skew is how far in the past a certificate begins: the clocks of the cloud
	// and of a device differ.
	skew = 24 * time.Hour
)

const (
	rootFile       = "root.key"
	receiptPattern = "receipt-*.key"
	pemKey         = "PRIVATE KEY"
	pemCertificate = "HOLDFAST CERTIFICATE"
)

// ErrPermissions is returned by Open for a key file that others may read.
var ErrPermissions = errors.New("key file is readable by others: chmod 600 it")

// Ring is the keys of one cloud. It is safe for concurrent use: it never changes.
type Ring struct {
	Root    ed25519.PrivateKey
	Chain   []telemetry.Certificate // by which the roots before it vouch for it, the newest first
	Receipt telemetry.ReceiptSigner // the newest valid receipt key, with the way to the very first root
}

// Fingerprint returns what devices know the root by.
func (r *Ring) Fingerprint() string {
	return fingerprint(r.Root)
}

// Open reads the keys in dir, makes the root and a receipt key at the first
// start, and a further receipt key when the newest is at half of its life.
func Open(dir string, now time.Time) (*Ring, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make keys folder: %w", err)
	}
	root, chain, err := openRoot(dir)
	if err != nil {
		return nil, err
	}
	r := &Ring{Root: root, Chain: chain}
	if r.Receipt, err = newest(dir, root, now); err != nil {
		return nil, err
	}
	if r.Receipt.Key == nil || now.After(r.Receipt.Chain[0].NotAfter.Add(-Validity/2)) {
		fresh, err := Renew(dir, root, now)
		switch {
		case err == nil:
			r.Receipt = fresh
		case r.Receipt.Key == nil:
			return nil, err
		}
		// Otherwise the folder cannot be written, as a mounted Secret cannot:
		// whoever fills it renews the key, which is good for as long again.
	}
	r.Receipt.Chain = append(r.Receipt.Chain, chain...)
	return r, nil
}

// Note says what an operator should know of the keys, nothing mostly: a receipt
// key that nobody renewed for so long that devices will soon refuse it.
func (r *Ring) Note(now time.Time) string {
	until := r.Receipt.Chain[0].NotAfter
	if now.Before(until.Add(-Validity / 4)) {
		return ""
	}
	return fmt.Sprintf("devices refuse the receipt key from %s on, and keys.dir cannot be written: run `cloud-api keys renew` on what fills it", until.Format(time.DateOnly))
}

func openRoot(dir string) (ed25519.PrivateKey, []telemetry.Certificate, error) {
	path := filepath.Join(dir, rootFile)
	key, chain, err := readKey(path)
	if err == nil && len(chain) > 0 && !chain[0].Key.Equal(key.Public()) {
		return nil, nil, fmt.Errorf("%s: its certificate is another key's", path)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return key, chain, err
	}
	// A lost root is a lost trust of every device: where receipt keys are, a
	// missing root is a mistake, not a first start.
	if others, err := filepath.Glob(filepath.Join(dir, receiptPattern)); err != nil || len(others) > 0 {
		return nil, nil, errors.Join(err, fmt.Errorf("%s is missing and receipt keys are there: restore it, or give an empty keys folder", path))
	}
	if _, key, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return nil, nil, fmt.Errorf("make root key: %w", err)
	}
	if err := writeKey(path, key, nil); err != nil {
		return nil, nil, fmt.Errorf("write root key: %w", err)
	}
	return key, nil, nil
}

// newest returns the receipt key of this root that is valid for longest; none has
// no Key.
func newest(dir string, root ed25519.PrivateKey, now time.Time) (best telemetry.ReceiptSigner, err error) {
	all, err := receiptKeys(dir)
	if err != nil {
		return best, err
	}
	for _, s := range all {
		if err := s.Chain[0].Verify(root.Public().(ed25519.PublicKey), now); err != nil {
			continue // expired, or of a root that was replaced
		}
		if best.Key == nil || s.Chain[0].NotAfter.After(best.Chain[0].NotAfter) {
			best = s
		}
	}
	return best, nil
}

// receiptKeys reads every receipt key in dir, each with its own certificate.
func receiptKeys(dir string) ([]telemetry.ReceiptSigner, error) {
	names, err := filepath.Glob(filepath.Join(dir, receiptPattern)) // ascending, which is by age
	if err != nil {
		return nil, fmt.Errorf("list receipt keys: %w", err)
	}
	var all []telemetry.ReceiptSigner
	for _, name := range names {
		key, chain, err := readKey(name)
		if err != nil {
			return nil, err
		}
		if len(chain) == 0 || !chain[0].Key.Equal(key.Public()) {
			return nil, fmt.Errorf("%s: its certificate is missing or another key's", name)
		}
		all = append(all, telemetry.ReceiptSigner{Key: key, Chain: chain[:1]})
	}
	return all, nil
}
