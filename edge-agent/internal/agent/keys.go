package agent

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

const (
	keyFile  = "agent.key"
	pemBlock = "PRIVATE KEY"
)

// LoadOrMakeKey returns the key that signs this agent's frames. It is made at
// the first start, readable by its owner alone, and durable before it is used:
// a key that a power cut took back would make the agent a stranger.
func LoadOrMakeKey(dir string) (ed25519.PrivateKey, error) {
	path := filepath.Join(dir, keyFile)
	text, err := os.ReadFile(path)
	switch {
	case err == nil:
		return parseKey(path, text)
	case !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("read key: %w", err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	if err := writeFile(path, pem.EncodeToMemory(&pem.Block{Type: pemBlock, Bytes: der})); err != nil {
		return nil, fmt.Errorf("keep key: %w", err)
	}
	return key, nil
}

// parseKey also takes back what others were allowed to read by a careless copy.
func parseKey(path string, text []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != pemBlock {
		return nil, fmt.Errorf("read key: %s holds no %s; restore it from a copy, "+
			"or move it away and enrol the agent with a new token", path, pemBlock)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w", path, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read key: %s holds another kind of key than Ed25519", path)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, fmt.Errorf("protect key: %w", err)
	}
	return key, nil
}

// writeFile puts the file in place whole and durably, readable by its owner alone.
func writeFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // CreateTemp makes it 0600
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, giveToOwner(f), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}

// giveToOwner makes `sudo edge-agent enroll` leave files that the agent, which
// runs as the folder's owner, can read.
func giveToOwner(f *os.File) error {
	info, err := os.Stat(filepath.Dir(f.Name()))
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Getuid() != 0 || owner.Uid == 0 {
		return nil
	}
	return f.Chown(int(owner.Uid), int(owner.Gid))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// openData makes the data folder, and says what to do where it cannot.
func openData(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make data folder (set data to a folder that this user may write, or make it: "+
			"sudo install -d -o %d -m 700 %s): %w", os.Getuid(), dir, err)
	}
	f, err := os.CreateTemp(dir, ".writable-*")
	if err != nil {
		return fmt.Errorf("data folder %s cannot be written (give it to this user: sudo chown -R %d %s): %w", dir, os.Getuid(), dir, err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}
