package intake_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/intake"
)

func addUser(t *testing.T, path, name, password string) {
	t.Helper()
	if err := intake.SetUser(path, name, []byte(password)); err != nil {
		t.Fatal(err)
	}
}

func loadUsers(t *testing.T, path string) *intake.Users {
	t.Helper()
	u, err := intake.LoadUsers(path)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Only who is in the file, with the right password, is let in, the second time
// as the first.
func TestUsersCheck(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	addUser(t, path, "anna", "wonder")
	addUser(t, path, "ben", "land")
	u := loadUsers(t, path)
	f := func(name, password string, want bool) {
		t.Helper()
		for range 2 {
			if got := u.Check(name, []byte(password)); got != want {
				t.Errorf("%s/%s: got %v, want %v", name, password, got, want)
			}
		}
	}
	f("anna", "wonder", true)
	f("ben", "land", true)
	f("anna", "land", false)
	f("anna", "", false)
	f("", "", false)
	f("nobody", "wonder", false)
}

// The file is private, holds no password, and a running agent sees a change.
func TestUsersFileChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	addUser(t, path, "anna", "wonder")
	u := loadUsers(t, path)
	if !u.Check("anna", []byte("wonder")) {
		t.Fatal("refused")
	}
	addUser(t, path, "anna", "changed")
	addUser(t, path, "late", "comer")
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if u.Check("anna", []byte("wonder")) || !u.Check("anna", []byte("changed")) || !u.Check("late", []byte("comer")) {
		t.Error("the change was not seen")
	}
	text, err := os.ReadFile(path)
	if err != nil || strings.Contains(string(text), "changed") || strings.Count(string(text), "anna:") != 1 {
		t.Errorf("got %s, %v", text, err)
	}
	mode := func(want os.FileMode) {
		t.Helper()
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("got %v, %v", info.Mode(), err)
		}
	}
	mode(0o600)
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	addUser(t, path, "third", "one")
	mode(0o640)
	if err := os.WriteFile(path, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !u.Check("late", []byte("comer")) {
		t.Error("a broken file locked everybody out")
	}
}

// A file that lets nobody in, or that is not what it should be, is an error.
func TestUsersFileFaults(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "users")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := intake.LoadUsers(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	f("", "names nobody")
	f("# only a comment\n", "names nobody")
	f("anna:plain\n", "line 1")
	f("\n:$2a$10$7EqJtq98hPqEX7fNZaFWoOhi5jN2eJ1n8h2p0M7qk3Zr3qvZ3kO1e\n", "line 2")
	if _, err := intake.LoadUsers("/nowhere/users"); err == nil {
		t.Error("no file, no error")
	}
	for _, name := range []string{"", "a:b", "a\nb", "#a"} {
		if err := intake.SetUser(filepath.Join(t.TempDir(), "u"), name, []byte("x")); err == nil {
			t.Errorf("%q is taken for a name", name)
		}
	}
	for _, password := range []string{"", strings.Repeat("x", 73)} {
		if err := intake.SetUser(filepath.Join(t.TempDir(), "u"), "a", []byte(password)); err == nil {
			t.Errorf("a password of %d bytes is taken", len(password))
		}
	}
}

// With users configured, a client needs a name and a password to connect.
func TestServerAsksForPassword(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	addUser(t, path, "anna", "wonder")
	users := loadUsers(t, path)
	s := &store{}
	server := serve(t, s, func(o *intake.ServerOptions) { o.Users = users })
	f := func(flags byte, rest []byte, code byte) *client {
		t.Helper()
		c := dial(t, server)
		c.send(connectPacket(4, "sensor", 0x02|flags, 60, rest))
		c.expect(0x20, 0, code)
		return c
	}
	f(0, nil, 5).closed()
	f(0xc0, append(text("anna"), text("wrong")...), 5).closed()
	c := f(0xc0, append(text("anna"), text("wonder")...), 0)
	c.publish(2, 1, "a", nil)
	c.expect(0x40, 0, 1)
}
