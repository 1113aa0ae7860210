package keys

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// ErrNoRoot is returned where there has to be a root key already.
var ErrNoRoot = errors.New("no root key")

// ErrChain is returned by RotateRoot when a receipt has no room for another
// certificate.
var ErrChain = fmt.Errorf("the root was replaced %d times, and a receipt carries no more certificates: devices have to enrol with a new cloud", telemetry.MaxChain-1)

// Renew makes a new receipt key, certified by the root, beside those in dir. What
// it returns leads to that root, and no further.
func Renew(dir string, root ed25519.PrivateKey, now time.Time) (telemetry.ReceiptSigner, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return telemetry.ReceiptSigner{}, fmt.Errorf("make receipt key: %w", err)
	}
	cert, err := telemetry.NewCertificate(telemetry.RoleReceipt, pub, now.Add(-skew), now.Add(Validity), root)
	if err != nil {
		return telemetry.ReceiptSigner{}, fmt.Errorf("certify receipt key: %w", err)
	}
	s := telemetry.ReceiptSigner{Key: key, Chain: []telemetry.Certificate{cert}}
	name := fmt.Sprintf("receipt-%s-%s.key", stamp(now), telemetry.Fingerprint(pub)[:8])
	if err := writeKey(filepath.Join(dir, name), key, s.Chain); err != nil {
		return telemetry.ReceiptSigner{}, fmt.Errorf("write receipt key: %w", err)
	}
	return s, nil
}

// RotateRoot replaces the root by a new one that the old one vouches for, and
// makes its first receipt key. Devices that pinned any root before believe the
// new one by the certificates in every receipt. The old key is kept beside it,
// out of use.
func RotateRoot(dir string, now time.Time) (*Ring, error) {
	path := filepath.Join(dir, rootFile)
	old, chain, err := readKey(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNoRoot, path)
	}
	if err != nil {
		return nil, err
	}
	if len(chain)+2 > telemetry.MaxChain {
		return nil, ErrChain
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make root key: %w", err)
	}
	cert, err := telemetry.NewCertificate(telemetry.RoleRoot, pub, now.Add(-skew), now.Add(rootValidity), old)
	if err != nil {
		return nil, fmt.Errorf("certify root key: %w", err)
	}
	kept := filepath.Join(dir, fmt.Sprintf("root-%s-%s.old", stamp(now), fingerprint(old)[:8]))
	if err := os.Link(path, kept); err != nil {
		return nil, fmt.Errorf("keep the old root: %w", err)
	}
	if err := writeKey(path, key, append([]telemetry.Certificate{cert}, chain...)); err != nil {
		return nil, fmt.Errorf("write root key: %w", err)
	}
	return Open(dir, now)
}

// Entry is one key as a person looks at it.
type Entry struct {
	Role        telemetry.Role
	Fingerprint string
	From, Until time.Time // zero for the very first root, which nobody certified
	InUse       bool
}

// List returns the roots, the newest first, and then the receipt keys. It makes
// nothing, and returns ErrNoRoot for a folder without a root.
func List(dir string, now time.Time) ([]Entry, error) {
	root, chain, err := readKey(filepath.Join(dir, rootFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s has none yet; `cloud-api run` makes it", ErrNoRoot, dir)
	}
	if err != nil {
		return nil, err
	}
	out := []Entry{{Role: telemetry.RoleRoot, Fingerprint: fingerprint(root), InUse: true}}
	for i, c := range chain {
		out[i].From, out[i].Until = c.NotBefore, c.NotAfter
		out = append(out, Entry{Role: telemetry.RoleRoot, Fingerprint: c.Issuer})
	}
	all, err := receiptKeys(dir)
	if err != nil {
		return nil, err
	}
	best, err := newest(dir, root, now)
	if err != nil {
		return nil, err
	}
	slices.Reverse(all)
	for _, s := range all {
		c := s.Chain[0]
		out = append(out, Entry{telemetry.RoleReceipt, telemetry.Fingerprint(c.Key), c.NotBefore, c.NotAfter, s.Key.Equal(best.Key)})
	}
	return out, nil
}

func fingerprint(key ed25519.PrivateKey) string {
	return telemetry.Fingerprint(key.Public().(ed25519.PublicKey))
}

func stamp(t time.Time) string { return t.UTC().Format("20060102T150405Z") }
