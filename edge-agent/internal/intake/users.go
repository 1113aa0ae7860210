package intake

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// hashCost makes one guess cost about 0.1 s on a desktop and 1 s on a Pi Zero.
const hashCost = 10

// errUser is returned by HashUser for a name or password that cannot be used.
var errUser = errors.New("want a name without : and a password of 1 to 72 bytes")

// Users is a file of NAME:BCRYPT lines, one for each who may connect. It is
// read again when it changes, so that adding a user needs no restart.
type Users struct {
	path string
	key  [32]byte // of the sums in good

	mu     sync.Mutex
	stamp  time.Time
	size   int64
	hashes map[string][]byte
	good   map[string][32]byte // who was let in with what, so that a reconnect is cheap

	// guess lets one password be hashed at a time: a flood of guesses takes
	// one core, not all.
	guess sync.Mutex
}

// LoadUsers reads the file. It returns an error when it cannot be read, when a
// line is not NAME:BCRYPT, and when it names nobody.
func LoadUsers(path string) (*Users, error) {
	u := &Users{path: path}
	_, _ = rand.Read(u.key[:]) // it never fails
	if err := u.refresh(); err != nil {
		return nil, fmt.Errorf("users file %s: %w", path, err)
	}
	return u, nil
}

// Check reports whether the password is the user's. A file that became
// unreadable or wrong leaves those in force who were.
func (u *Users) Check(name string, password []byte) bool {
	_ = u.refresh()
	mac := hmac.New(sha256.New, u.key[:])
	mac.Write(password)
	sum := [32]byte(mac.Sum(nil))
	if u.remembers(name, sum) {
		return true
	}
	u.guess.Lock()
	defer u.guess.Unlock()
	if u.remembers(name, sum) {
		return true // a hundred sensors with one password come back together
	}
	u.mu.Lock()
	hash, known := u.hashes[name]
	u.mu.Unlock()
	if !known {
		hash = nobody // as slow as for one who exists
	}
	if err := bcrypt.CompareHashAndPassword(hash, password); err != nil || !known {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if bytes.Equal(u.hashes[name], hash) {
		u.good[name] = sum
	}
	return true
}

func (u *Users) remembers(name string, sum [32]byte) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	before, is := u.good[name]
	return is && hmac.Equal(before[:], sum[:])
}

// nobody is the hash, at hashCost, of a password that was thrown away.
var nobody = []byte("$2a$10$7EqJtq98hPqEX7fNZaFWoOhi5jN2eJ1n8h2p0M7qk3Zr3qvZ3kO1e")

func (u *Users) refresh() error {
	info, err := os.Stat(u.path)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.hashes != nil && info.ModTime().Equal(u.stamp) && info.Size() == u.size {
		return nil
	}
	text, err := os.ReadFile(u.path)
	if err != nil {
		return err
	}
	hashes, err := parseUsers(text)
	if err != nil {
		return err
	}
	u.stamp, u.size = info.ModTime(), info.Size()
	u.hashes, u.good = hashes, make(map[string][32]byte)
	return nil
}

func parseUsers(text []byte) (map[string][]byte, error) {
	hashes := make(map[string][]byte)
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, hash, _ := strings.Cut(line, ":")
		if _, err := bcrypt.Cost([]byte(hash)); err != nil || name == "" {
			return nil, fmt.Errorf("line %d: want NAME:BCRYPT as `edge-agent user add` writes it", n)
		}
		hashes[name] = []byte(hash)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(hashes) == 0 {
		return nil, errors.New("it names nobody; add one with `edge-agent user add`")
	}
	return hashes, nil
}

// SetUser puts the user with this password into the file, in place of an older
// line of the same name. The file is made (0600) where there is none, keeps its
// owner and mode where there is one, and is never seen half-written.
func SetUser(path, name string, password []byte) error {
	if name == "" || strings.ContainsAny(name, ":\r\n") || strings.HasPrefix(name, "#") || len(password) == 0 || len(password) > 72 {
		return errUser
	}
	hash, err := bcrypt.GenerateFromPassword(password, hashCost)
	if err != nil {
		return fmt.Errorf("hash password: %w", err)
	}
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read users: %w", err)
	}
	lines := slices.DeleteFunc(strings.Split(strings.TrimRight(string(text), "\n"), "\n"), func(l string) bool {
		return l == "" || strings.HasPrefix(strings.TrimSpace(l), name+":")
	})
	lines = append(lines, name+":"+string(hash), "")
	return replaceFile(path, []byte(strings.Join(lines, "\n")))
}

func replaceFile(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".users-*")
	if err != nil {
		return fmt.Errorf("write users: %w", err)
	}
	_, err = f.Write(text)
	err = errors.Join(err, keepOwner(f, path), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write users: %w", err), os.Remove(f.Name()))
	}
	return nil
}

func keepOwner(f *os.File, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return nil // a new file
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && os.Getuid() == 0 {
		err = f.Chown(int(owner.Uid), int(owner.Gid))
	}
	return errors.Join(err, f.Chmod(info.Mode().Perm()))
}
