package keys

import (
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

var now = time.Date(2026, 5, 4, 10, 0, 0, 0, time.UTC)

func open(t *testing.T, dir string, at time.Time) *Ring {
	t.Helper()
	r, err := Open(dir, at)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func root(r *Ring) ed25519.PublicKey { return r.Root.Public().(ed25519.PublicKey) }

// receipt signs one and opens it as a device does that pinned pin.
func receipt(t *testing.T, r *Ring, pin ed25519.PublicKey, at time.Time) error {
	t.Helper()
	b, err := telemetry.EncodeReceipt(telemetry.Receipt{Cloud: "c", Agent: "a", Issued: at}, r.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	_, err = telemetry.OpenReceipt(b, "a", pin, at)
	return err
}

// The first start makes keys that only their owner can read; later ones find
// the same.
func TestKeysAreMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	first, second := open(t, dir, now), open(t, dir, now.Add(time.Hour))
	if !first.Root.Equal(second.Root) || !first.Receipt.Key.Equal(second.Receipt.Key) || first.Fingerprint() != telemetry.Fingerprint(root(first)) {
		t.Error("the second start has other keys")
	}
	if err := receipt(t, second, root(first), now.Add(time.Hour)); err != nil {
		t.Error(err)
	}
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 2 {
		t.Fatalf("%v, %v", names, err)
	}
	for _, n := range names {
		if info, err := n.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", n.Name(), info.Mode(), err)
		}
	}
}

// A receipt key is renewed at half of its life; devices know both by the root.
func TestReceiptKeyIsRenewed(t *testing.T) {
	dir := t.TempDir()
	old := open(t, dir, now)
	later := now.Add(Validity/2 + time.Hour)
	renewed := open(t, dir, later)
	if renewed.Receipt.Key.Equal(old.Receipt.Key) {
		t.Fatal("not renewed")
	}
	for _, r := range []*Ring{old, renewed} {
		if err := receipt(t, r, root(old), later); err != nil {
			t.Error(err)
		}
	}
	if again := open(t, dir, later.Add(time.Hour)); !again.Receipt.Key.Equal(renewed.Receipt.Key) {
		t.Error("renewed twice")
	}
}

// Rotation makes a key beside the others, and the next start signs with it.
func TestRotationIsFollowed(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, now)
	s, err := Rotate(dir, r.Root, now.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if next := open(t, dir, now.Add(time.Hour)); !next.Receipt.Key.Equal(s.Key) {
		t.Error("the next start signs with another key")
	}
}

// A key file that others may read, that is damaged or that belongs to another
// key is an error that names it; a missing root is no first start when there are
// receipt keys.
func TestBadKeysAreRefused(t *testing.T) {
	for name, damage := range map[string]func(dir, root, receipt string) error{
		"readable":  func(_, root, _ string) error { return os.Chmod(root, 0o640) },
		"empty":     func(_, root, _ string) error { return os.WriteFile(root, nil, 0o600) },
		"noise":     func(_, _, receipt string) error { return os.WriteFile(receipt, []byte("noise"), 0o600) },
		"root gone": func(_, root, _ string) error { return os.Remove(root) },
		"no certificate": func(_, root, receipt string) error {
			b, err := os.ReadFile(root)
			return errors.Join(err, os.WriteFile(receipt, b, 0o600))
		},
	} {
		dir := t.TempDir()
		open(t, dir, now)
		receipts, err := filepath.Glob(filepath.Join(dir, receiptPattern))
		if err != nil || len(receipts) != 1 {
			t.Fatal(receipts, err)
		}
		if err := damage(dir, filepath.Join(dir, rootFile), receipts[0]); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, now); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Key files that belong to somebody else, as those of a mounted Secret, are read
// through their group; by everybody they are not to be read.
func TestKeysOfAMountedSecret(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("giving a file away needs root")
	}
	dir := t.TempDir()
	made := open(t, dir, now)
	names, err := filepath.Glob(filepath.Join(dir, "*.key"))
	if err != nil || len(names) != 2 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		if err := errors.Join(os.Chown(name, 65534, os.Getgid()), os.Chmod(name, 0o440)); err != nil {
			t.Fatal(err)
		}
	}
	if got := open(t, dir, now.Add(time.Hour)); !got.Receipt.Key.Equal(made.Receipt.Key) {
		t.Error("other keys than those in the Secret")
	}
	if err := os.Chmod(names[0], 0o444); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, now); !errors.Is(err, ErrPermissions) {
		t.Errorf("got %v, want %v", err, ErrPermissions)
	}
}

// A receipt key of another root is passed over and a new one made.
func TestReceiptKeyOfAnotherRootIsPassedOver(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	r, foreign := open(t, dir, now), open(t, other, now.Add(time.Hour))
	if _, err := Rotate(dir, foreign.Root, now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if again := open(t, dir, now.Add(2*time.Hour)); !again.Receipt.Key.Equal(r.Receipt.Key) {
		t.Error("signs with a key that no device of this cloud trusts")
	}
}

// A file is there whole or not at all, and no temporary one stays.
func TestWriteFileLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	for _, text := range []string{"one", "two"} {
		if err := WriteFile(filepath.Join(dir, "f"), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteFile(filepath.Join(dir, "f", "g"), nil); err == nil {
		t.Error("wrote into a file")
	}
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 1 {
		t.Errorf("%v, %v", names, err)
	}
}
