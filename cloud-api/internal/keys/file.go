package keys

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

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
