// Package keys holds the cloud's signing keys: a root, whose fingerprint every
// enrolment token carries and every device pins, and receipt keys, which the root
// certifies and which sign what devices delete by. A key file is written whole or
// not at all, and never with permissions for anyone else.
package keys

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Validity is how long a receipt key is certified for. Devices with a clock they
// trust refuse it afterwards, so it is renewed at half of it.
const Validity = 2 * 365 * 24 * time.Hour

// skew is how far in the past a certificate begins: the clocks of the cloud and
// of a device differ.
const skew = 24 * time.Hour

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
	Receipt telemetry.ReceiptSigner // the newest valid receipt key
}

// Fingerprint returns what devices know the root by.
func (r *Ring) Fingerprint() string {
	return telemetry.Fingerprint(r.Root.Public().(ed25519.PublicKey))
}

// Open reads the keys in dir, makes the root and a receipt key at the first
// start, and a further receipt key when the newest is at half of its life.
func Open(dir string, now time.Time) (*Ring, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make keys folder: %w", err)
	}
	root, err := openRoot(dir)
	if err != nil {
		return nil, err
	}
	r := &Ring{Root: root}
	if r.Receipt, err = newest(dir, root, now); err != nil {
		return nil, err
	}
	if r.Receipt.Key == nil || now.After(r.Receipt.Chain[0].NotAfter.Add(-Validity/2)) {
		fresh, err := Rotate(dir, root, now)
		switch {
		case err == nil:
			r.Receipt = fresh
		case r.Receipt.Key == nil:
			return nil, err
		}
		// Otherwise the folder cannot be written, as a mounted Secret cannot:
		// whoever fills it renews the key, which is good for as long again.
	}
	return r, nil
}

// Rotate makes a new receipt key, certified by the root, beside those in dir.
func Rotate(dir string, root ed25519.PrivateKey, now time.Time) (telemetry.ReceiptSigner, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return telemetry.ReceiptSigner{}, fmt.Errorf("make receipt key: %w", err)
	}
	cert, err := telemetry.NewCertificate(telemetry.RoleReceipt, pub, now.Add(-skew), now.Add(Validity), root)
	if err != nil {
		return telemetry.ReceiptSigner{}, fmt.Errorf("certify receipt key: %w", err)
	}
	s := telemetry.ReceiptSigner{Key: key, Chain: []telemetry.Certificate{cert}}
	name := fmt.Sprintf("receipt-%s-%s.key", now.UTC().Format("20060102T150405Z"), telemetry.Fingerprint(pub)[:8])
	if err := writeKey(filepath.Join(dir, name), key, s.Chain); err != nil {
		return telemetry.ReceiptSigner{}, fmt.Errorf("write receipt key: %w", err)
	}
	return s, nil
}

func openRoot(dir string) (ed25519.PrivateKey, error) {
	path := filepath.Join(dir, rootFile)
	key, _, err := readKey(path)
	if !errors.Is(err, os.ErrNotExist) {
		return key, err
	}
	// A lost root is a lost trust of every device: where receipt keys are, a
	// missing root is a mistake, not a first start.
	if others, err := filepath.Glob(filepath.Join(dir, receiptPattern)); err != nil || len(others) > 0 {
		return nil, errors.Join(err, fmt.Errorf("%s is missing and receipt keys are there: restore it, or give an empty keys folder", path))
	}
	if _, key, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return nil, fmt.Errorf("make root key: %w", err)
	}
	if err := writeKey(path, key, nil); err != nil {
		return nil, fmt.Errorf("write root key: %w", err)
	}
	return key, nil
}

// newest returns the receipt key that is valid for longest; none has no Key.
func newest(dir string, root ed25519.PrivateKey, now time.Time) (best telemetry.ReceiptSigner, err error) {
	names, err := filepath.Glob(filepath.Join(dir, receiptPattern))
	if err != nil {
		return best, fmt.Errorf("list receipt keys: %w", err)
	}
	for _, name := range names {
		key, chain, err := readKey(name)
		if err != nil {
			return best, err
		}
		if len(chain) == 0 || !chain[0].Key.Equal(key.Public()) {
			return best, fmt.Errorf("%s: its certificate is missing or another key's", name)
		}
		if err := chain[len(chain)-1].Verify(root.Public().(ed25519.PublicKey), now); err != nil {
			continue // expired, or of a root that was replaced
		}
		if best.Key == nil || chain[0].NotAfter.After(best.Chain[0].NotAfter) {
			best = telemetry.ReceiptSigner{Key: key, Chain: chain}
		}
	}
	return best, nil
}

// readKey reads a private key in PKCS #8 PEM and the certificates after it.
func readKey(path string) (ed25519.PrivateKey, []telemetry.Certificate, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read key: %w", err)
	}
	if !private(info) {
		return nil, nil, fmt.Errorf("%s: %w", path, ErrPermissions)
	}
	rest, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read key: %w", err)
	}
	var key ed25519.PrivateKey
	var chain []telemetry.Certificate
	for {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		switch b.Type {
		case pemKey:
			k, err := x509.ParsePKCS8PrivateKey(b.Bytes)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", path, err)
			}
			key, _ = k.(ed25519.PrivateKey)
		case pemCertificate:
			var c telemetry.Certificate
			if err := json.Unmarshal(b.Bytes, &c); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", path, err)
			}
			chain = append(chain, c)
		}
	}
	if key == nil {
		return nil, nil, fmt.Errorf("%s: no Ed25519 private key in it", path)
	}
	return key, chain, nil
}

// private reports whether nobody else can read the file. One that belongs to
// somebody else, as in a mounted Secret, may be read by its group: that is what
// lets us read it.
func private(info os.FileInfo) bool {
	perm := info.Mode().Perm()
	if perm&0o077 == 0 {
		return true
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && perm&0o037 == 0 && int(st.Uid) != os.Getuid()
}

func writeKey(path string, key ed25519.PrivateKey, chain []telemetry.Certificate) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	out := pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der})
	for _, c := range chain {
		b, err := json.Marshal(c)
		if err != nil {
			return err
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: b})...)
	}
	return WriteFile(path, out)
}

// WriteFile writes a file that only its owner may read, whole or not at all: it
// is synced under a temporary name, renamed, and the folder is synced.
func WriteFile(path string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
