// Package pgtest runs a real PostgreSQL server for tests: one that syncs, on a
// Unix socket in a temporary folder, gone when the test process is.
package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Server is a running server.
type Server struct {
	dir  string
	bin  string
	args []string
	cmd  *exec.Cmd
	over chan struct{} // closed when cmd ended
	log  bytes.Buffer
	next atomic.Int64
}

// errMissing is returned by Start where PostgreSQL is not installed.
var errMissing = errors.New("PostgreSQL is not installed (initdb)")

// Require starts a server for one test; see Check.
func Require(t testing.TB, settings ...string) *Server {
	t.Helper()
	s, err := Start(settings...)
	Check(t, err)
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Errorf("%v\n%s", err, s.log.String())
		}
	})
	return s
}

// Check ends the test when Start failed: skipped where PostgreSQL is not
// installed and HOLDFAST_TEST_REQUIRE does not name postgresql.
func Check(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, errMissing) && !slices.Contains(strings.Split(os.Getenv("HOLDFAST_TEST_REQUIRE"), ","), "postgresql") {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Start makes a cluster and runs a server over it, with settings such as
// fsync=off beside those that a test needs.
func Start(settings ...string) (*Server, error) {
	s, err := empty(settings...)
	if err != nil {
		return nil, err
	}
	// --no-sync: the cluster made here is thrown away; the server itself syncs.
	if err := s.program("initdb", "-D", s.data(), "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, s.Run()
}

// empty makes a server without data.
func empty(settings ...string) (*Server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, bin: bin}
	s.args = []string{"-D", s.data(), "-k", dir, "-c", "listen_addresses=", "-c", "max_connections=60", "-c", "shared_buffers=64MB"}
	for _, v := range settings {
		s.args = append(s.args, "-c", v)
	}
	return s, errors.Join(os.Chmod(dir, 0o755), give(dir))
}

// program runs one of PostgreSQL's own to its end.
func (s *Server) program(name string, args ...string) error {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.SysProcAttr, cmd.Dir = attributes(), s.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

// Standby makes a copy of the server that follows it, for one test. The server
// waits for it with every commit when synchronous is true.
func (s *Server) Standby(t testing.TB, synchronous bool) *Server {
	t.Helper()
	b, err := empty()
	if err == nil {
		t.Cleanup(func() {
			if err := b.Stop(); err != nil {
				t.Errorf("%v\n%s", err, b.log.String())
			}
		})
		err = b.program("pg_basebackup", "-h", s.dir, "-U", "postgres", "-D", b.data(), "-X", "stream", "-c", "fast", "--no-sync", "-R")
	}
	if err == nil {
		err = b.Run()
	}
	if err == nil && synchronous {
		err = errors.Join(s.exec("ALTER SYSTEM SET synchronous_standby_names = '*'"), s.exec("SELECT pg_reload_conf()"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Promote makes a standby a server of its own.
func (s *Server) Promote() error { return s.exec("SELECT pg_promote()") }

// Either returns a connection string for a database of a server or of its standby:
// whichever takes writes.
func (s *Server) Either(standby *Server, dsn string) string {
	return strings.Replace(dsn, "host="+s.dir, "host="+s.dir+","+standby.dir, 1) + " target_session_attrs=read-write"
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// Run starts the server again after Stop or Kill, and waits until it answers.
func (s *Server) Run() error {
	cmd, over := exec.Command(filepath.Join(s.bin, "postgres"), s.args...), make(chan struct{})
	cmd.SysProcAttr, cmd.Dir = attributes(), s.dir
	cmd.Stdout, cmd.Stderr = &s.log, &s.log
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd, s.over = cmd, over
	go func() {
		_ = cmd.Wait() // what it has to say is in the log
		close(over)
	}()
	var err error
	for range 600 {
		if err = s.exec("SELECT 1"); err == nil {
			return nil
		}
		if s.Ended() {
			return fmt.Errorf("server ended\n%s", s.log.String())
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("server does not answer: %w", err)
}

// Ended reports whether the server ended, by itself or not.
func (s *Server) Ended() bool {
	select {
	case <-s.over:
		return true
	default:
		return false
	}
}

// Kill ends the server as a crash does: no checkpoint, no goodbye.
func (s *Server) Kill() error { return s.end(syscall.SIGQUIT) }

// end sends the signal and waits.
func (s *Server) end(sig syscall.Signal) error {
	if s.cmd == nil || s.Ended() {
		return nil
	}
	if err := s.cmd.Process.Signal(sig); err != nil && !s.Ended() {
		return err
	}
	<-s.over
	return nil
}

// Stop ends the server and removes its files.
func (s *Server) Stop() error {
	return errors.Join(s.end(syscall.SIGINT), os.RemoveAll(s.dir))
}

// Database makes an empty database and returns its connection string.
func (s *Server) Database() (string, error) {
	name := fmt.Sprintf("test%d", s.next.Add(1))
	return s.dsn(name), s.exec("CREATE DATABASE " + name)
}

// DatabaseIn makes an empty database whose tables lie in a folder of its own.
func (s *Server) DatabaseIn(dir string) (string, error) {
	n := s.next.Add(1)
	name := fmt.Sprintf("test%d", n)
	return s.dsn(name), errors.Join(give(dir), s.exec(fmt.Sprintf("CREATE TABLESPACE space%d LOCATION '%s'", n, dir)), s.exec(fmt.Sprintf("CREATE DATABASE %s TABLESPACE space%d", name, n)))
}

// MoveLog puts the write-ahead log into a folder, as an administrator does, and
// starts the server anew.
func (s *Server) MoveLog(dir string) error {
	if err := s.end(syscall.SIGINT); err != nil {
		return err
	}
	from, to := filepath.Join(s.data(), "pg_wal"), filepath.Join(dir, "pg_wal")
	move := exec.Command("mv", from, to) // across file systems, with its owner
	if out, err := move.CombinedOutput(); err != nil {
		return fmt.Errorf("mv: %w\n%s", err, out)
	}
	return errors.Join(give(dir), os.Symlink(to, from), s.Run())
}

func (s *Server) dsn(database string) string {
	return fmt.Sprintf("host=%s user=postgres dbname=%s sslmode=disable", s.dir, database)
}

func (s *Server) exec(query string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, s.dsn("postgres"))
	if err != nil {
		return err
	}
	_, err = c.Exec(ctx, query)
	return errors.Join(err, c.Close(ctx))
}

// binaries finds the folder of the server's programs: Debian keeps them out of
// the path.
func binaries() (string, error) {
	path, err := exec.LookPath("initdb")
	if err != nil {
		found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // fails only for a bad pattern
		if len(found) == 0 {
			return "", errMissing
		}
		path = found[len(found)-1]
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", err
	}
	return filepath.Dir(path), nil
}

// attributes makes a child that ends with this process and, since PostgreSQL
// refuses root, is postgres when this is root.
func attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
	if uid, gid, ok := postgres(); ok {
		a.Credential = &syscall.Credential{Uid: uid, Gid: gid}
	}
	return a
}

func give(dir string) error {
	if uid, gid, ok := postgres(); ok {
		return os.Chown(dir, int(uid), int(gid))
	}
	return nil
}

func postgres() (uid, gid uint32, ok bool) {
	if os.Geteuid() != 0 {
		return 0, 0, false
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return 0, 0, false
	}
	id, err := strconv.ParseUint(u.Uid, 10, 32)
	group, err2 := strconv.ParseUint(u.Gid, 10, 32)
	return uint32(id), uint32(group), err == nil && err2 == nil
}
