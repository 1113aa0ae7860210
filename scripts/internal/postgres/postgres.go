// Package postgres runs a PostgreSQL primary and its standby as real programs on
// loopback: stopped, failed over, backed up and restored as a test wants it.
// Replication is asynchronous, as most people run it: what the standby lacks when
// it takes over is lost.
package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/process"
)

// ErrNotInstalled is returned by Find where there is no PostgreSQL.
var ErrNotInstalled = errors.New("PostgreSQL is not installed (no initdb and pg_basebackup)")

// Programs is where PostgreSQL's own programs are, and who may run them: it
// refuses root.
type Programs struct {
	bin  string
	user *process.User // nil: this one
}

// Find returns the newest PostgreSQL of this machine; Debian keeps its programs
// out of the path.
func Find() (Programs, error) {
	var p Programs
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // fails only for a bad pattern
	if path, err := exec.LookPath("initdb"); err == nil {
		found = append(found, path)
	}
	for _, path := range found {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			p.bin = filepath.Dir(real)
		}
	}
	if p.bin == "" {
		return p, ErrNotInstalled
	}
	if _, err := os.Stat(p.program("pg_basebackup")); err != nil {
		return p, ErrNotInstalled
	}
	if os.Geteuid() != 0 {
		return p, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return p, fmt.Errorf("%w, or without its user: %w", ErrNotInstalled, err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	p.user = &process.User{UID: uint32(uid), GID: uint32(gid)}
	return p, errors.Join(err1, err2)
}

func (p Programs) program(name string) string { return filepath.Join(p.bin, name) }

// run runs one of PostgreSQL's programs to its end.
func (p Programs) run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, p.program(name), args...)
	cmd.Dir = "/" // ours may be closed to its user
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if p.user != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: p.user.UID, Gid: p.user.GID}}
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(out.String()))
	}
	return out.String(), nil
}

// folder makes a folder that PostgreSQL may write to.
func (p Programs) folder(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	if p.user == nil {
		return nil
	}
	return os.Chown(path, int(p.user.UID), int(p.user.GID))
}

// Options say where a cluster lives.
type Options struct {
	Programs Programs
	Dir      string                 // exists; its user must be able to reach it
	Log      string                 // folder
	Address  func() (string, error) // gives a free address on loopback at each call
	Restart  time.Duration          // how soon a server that ended by itself is started again
}

// Cluster is a primary and its standby. The two change roles; the data of each
// outlives its process.
type Cluster struct {
	Primary, Standby *Node

	o     Options
	group *process.Group
	made  int // folders for data
}

// Node is one server.
type Node struct {
	*process.Process
	addr, dir string
}

// readyLimit is how long a server may take to be ready on a loaded machine.
const readyLimit = 60 * time.Second

// Start makes a database named holdfast on a primary, and a standby that follows.
func Start(ctx context.Context, g *process.Group, o Options) (*Cluster, error) {
	c := &Cluster{o: o, group: g}
	if err := c.start(ctx); err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) (err error) {
	if err := c.o.Programs.folder(c.o.Dir); err != nil {
		return err
	}
	if c.Primary, err = c.node("a"); err != nil {
		return err
	}
	if c.Standby, err = c.node("b"); err != nil {
		return err
	}
	_, err = c.o.Programs.run(ctx, "initdb", "-D", c.Primary.dir, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync")
	if err != nil {
		return err
	}
	if err := c.launch(ctx, c.Primary, "a"); err != nil {
		return err
	}
	if _, err := c.o.Programs.run(ctx, "createdb", c.at(c.Primary, "holdfast")...); err != nil {
		return err
	}
	if err := c.copy(ctx, c.Standby.dir, "-R"); err != nil {
		return err
	}
	return c.launch(ctx, c.Standby, "b")
}

func (c *Cluster) node(name string) (*Node, error) {
	addr, err := c.o.Address()
	return &Node{addr: addr, dir: filepath.Join(c.o.Dir, name)}, err
}

// at are the arguments by which PostgreSQL's programs find a server.
func (c *Cluster) at(n *Node, more ...string) []string {
	host, port, _ := net.SplitHostPort(n.addr) // ours always has one
	return append([]string{"-h", host, "-p", port, "-U", "postgres"}, more...)
}

func (c *Cluster) launch(ctx context.Context, n *Node, name string) (err error) {
	_, port, _ := net.SplitHostPort(n.addr)
	args := []string{"-D", n.dir}
	for _, v := range []string{
		"listen_addresses=127.0.0.1", "port=" + port, "unix_socket_directories=", "max_connections=80", "shared_buffers=32MB",
		"max_wal_size=128MB", "min_wal_size=32MB", "wal_keep_size=64MB", "wal_level=replica",
	} {
		args = append(args, "-c", v)
	}
	n.Process, err = c.group.Start(process.Spec{
		Name: "postgres-" + name, Path: c.o.Programs.program("postgres"), Args: args, Dir: c.o.Dir,
		Log: filepath.Join(c.o.Log, "postgres-"+name+".log"), User: c.o.Programs.user, Quit: syscall.SIGINT, Restart: c.o.Restart,
	})
	if err != nil {
		return err
	}
	return c.ready(ctx, n)
}

// DSN leads to whichever server is the primary.
func (c *Cluster) DSN() string {
	hostA, portA, _ := net.SplitHostPort(c.Primary.addr)
	hostB, portB, _ := net.SplitHostPort(c.Standby.addr)
	return fmt.Sprintf("host=%s,%s port=%s,%s user=postgres dbname=holdfast sslmode=disable connect_timeout=2 target_session_attrs=read-write",
		hostA, hostB, portA, portB)
}

// Ready waits until the primary answers.
func (c *Cluster) Ready(ctx context.Context) error { return c.ready(ctx, c.Primary) }

func (c *Cluster) ready(ctx context.Context, n *Node) error {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	for {
		_, err := c.o.Programs.run(ctx, "psql", c.at(n, "-d", "postgres", "-Atc", "SELECT 1")...)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w; end of %s:\n%s", n.Name(), err, n.Log(), n.Tail(10))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
