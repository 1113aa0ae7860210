package keys

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
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
	s, err := Renew(dir, r.Root, now.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if next := open(t, dir, now.Add(time.Hour)); !next.Receipt.Key.Equal(s.Key) {
		t.Error("the next start signs with another key")
	}
}

// A device that pinned any root before, or none but the newest, accepts receipts
// of the newest, with a clock that it trusts, also years later; a stranger's root
// is accepted by nobody. As often as a receipt has room, and then no more.
func TestRootIsReplaced(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, now)
	pins := []ed25519.PublicKey{root(r)}
	at := now
	for range telemetry.MaxChain - 1 {
		at = at.Add(365 * 24 * time.Hour)
		next, err := RotateRoot(dir, at)
		if err != nil {
			t.Fatal(err)
		}
		pins = append(pins, root(next))
		again := open(t, dir, at.Add(time.Hour))
		if !again.Receipt.Key.Equal(next.Receipt.Key) || !again.Root.Equal(next.Root) {
			t.Fatal("the next start has other keys")
		}
		for i, pin := range pins {
			if err := receipt(t, again, pin, at.Add(time.Hour)); err != nil {
				t.Errorf("root %d after %d rotations: %v", i, len(pins)-1, err)
			}
		}
	}
	if err := receipt(t, open(t, dir, at), root(open(t, t.TempDir(), now)), at); !errors.Is(err, telemetry.ErrCertificate) {
		t.Errorf("a stranger: %v", err)
	}
	if _, err := RotateRoot(dir, at); !errors.Is(err, ErrChain) {
		t.Errorf("one too many: %v", err)
	}
	if _, err := RotateRoot(t.TempDir(), at); !errors.Is(err, ErrNoRoot) {
		t.Errorf("an empty folder: %v", err)
	}
	list, err := List(dir, at)
	if err != nil || len(list) != 2*telemetry.MaxChain || !list[0].InUse || !list[telemetry.MaxChain].InUse || list[1].InUse {
		t.Errorf("%+v, %v", list, err)
	}
	for i, pin := range pins {
		if e := list[len(pins)-1-i]; e.Fingerprint != telemetry.Fingerprint(pin) || e.Role != telemetry.RoleRoot {
			t.Errorf("root %d is listed as %+v", i, e)
		}
	}
}

// A keeper follows its folder without a restart: a key that somebody else made, a
// root that was replaced, a key that is due. A folder that cannot be read changes
// nothing, and the operator is told before devices refuse the key.
func TestKeeperFollowsTheFolder(t *testing.T) {
	dir := t.TempDir()
	k, err := Keep(dir, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	look := func(at time.Time, ok bool) *Ring {
		t.Helper()
		if err := k.look(at); (err == nil) != ok {
			t.Fatal(err)
		}
		return k.Ring()
	}
	at, first := time.Now(), k.Ring()
	made, err := Renew(dir, first.Root, at.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if !look(at, true).Receipt.Key.Equal(made.Key) {
		t.Error("does not sign with the key that was made")
	}
	at = at.Add(Validity/2 + time.Hour)
	if r := look(at, true); r.Receipt.Key.Equal(made.Key) || r.Note(at) != "" {
		t.Error("not renewed in time")
	}
	rotated, err := RotateRoot(dir, at)
	if err != nil {
		t.Fatal(err)
	}
	if r := look(at, true); !r.Root.Equal(rotated.Root) || receipt(t, r, root(first), at) != nil {
		t.Error("does not follow the root")
	}
	if err := os.WriteFile(filepath.Join(dir, rootFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	at = at.Add(Validity * 7 / 8)
	if r := look(at, false); !r.Receipt.Key.Equal(rotated.Receipt.Key) || r.Note(at) == "" {
		t.Error("a folder that cannot be read changed something, or nobody is told of the key's end")
	}
}

// A running keeper sees within seconds what changed, and ends with its context.
func TestKeeperLooksByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		k, err := Keep(dir, slog.New(slog.DiscardHandler), nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- k.Run(ctx) }()
		rotated, err := RotateRoot(dir, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookInterval + time.Second)
		synctest.Wait()
		if !k.Ring().Root.Equal(rotated.Root) {
			t.Error("does not look")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
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
	if _, err := Renew(dir, foreign.Root, now.Add(time.Hour)); err != nil {
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
