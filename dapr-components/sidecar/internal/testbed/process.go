// Package testbed starts the real programs that the tests of this module talk to, and ends every one of them with its test.
package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is a program that runs for a test. It dies with the test, and with the test binary should that be killed.
type Process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	out  *buffer
	done chan struct{}
}

// Start runs the program; its output is shown when the test fails.
func Start(t testing.TB, env []string, name string, args ...string) *Process {
	t.Helper()
	p := &Process{t: t, name: filepath.Base(name), out: &buffer{}, done: make(chan struct{})}
	p.cmd = exec.Command(name, args...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Dir = t.TempDir()
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	// Setpgid: some servers start children. Pdeathsig: nothing outlives a killed test binary; the thread that starts it stays.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", p.name, err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is the test's business: Alive, Output
		close(p.done)
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("--- %s\n%s", p.name, p.out.tail(6000))
		}
	})
	return p
}

// Kill ends the program and its children at once, as a power cut does.
func (p *Process) Kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// Freeze stops the program and its children where they are: their connections stay open and silent. Kill ends them all the same.
func (p *Process) Freeze() {
	p.t.Helper()
	if err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGSTOP); err != nil {
		p.t.Fatal(err)
	}
}

// Stop asks the program to end and waits for ten seconds.
func (p *Process) Stop() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		p.Kill()
		p.t.Errorf("%s did not end within 10 s of SIGTERM", p.name)
	}
}

// Alive reports whether the program still runs.
func (p *Process) Alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Pid is the program's process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Output is what the program has written so far.
func (p *Process) Output() string { return p.out.String() }

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *buffer) tail(n int) string {
	s := b.String()
	if len(s) > n {
		s = "…" + s[len(s)-n:]
	}
	return s
}

// FreePort returns a TCP port of 127.0.0.1 that nobody listens on, below the range from which outgoing connections are given theirs: it
// is free until a program takes it, and while that is restarted.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(20_000+rand.IntN(12_000))))
		if err == nil {
			defer l.Close()
			return l.Addr().(*net.TCPAddr).Port
		}
	}
	t.Fatal("none of 1000 ports tried from 20000 to 32000 is free")
	return 0
}

// Eventually waits until ok holds, and fails the test when it does not within the limit.
func Eventually(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// Listening waits until something accepts connections on the port.
func Listening(t testing.TB, port int, p *Process) {
	t.Helper()
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	Eventually(t, 2*time.Minute, p.name+" listens on "+addr, func() bool {
		if !p.Alive() {
			t.Fatalf("%s ended at once:\n%s", p.name, p.out.tail(3000))
		}
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

// Require finds an installed program. Without it the test is skipped, or fails when HOLDFAST_TEST_REQUIRE names it.
func Require(t testing.TB, name string, candidates ...string) string {
	t.Helper()
	for _, c := range candidates {
		if path, err := exec.LookPath(c); err == nil {
			return path
		}
	}
	required := strings.Split(os.Getenv("HOLDFAST_TEST_REQUIRE"), ",")
	if slices.Contains(required, name) {
		t.Fatalf("%s is not installed, and HOLDFAST_TEST_REQUIRE names it", name)
	}
	t.Skipf("SKIP: %s is not installed", name)
	return ""
}

// Long reports whether HOLDFAST_TEST_LONG asks for the forms of tests that take minutes.
func Long() bool { return os.Getenv("HOLDFAST_TEST_LONG") != "" }

// Root is the folder of this module.
func Root() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find module: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if mod == "" || mod == os.DevNull {
		return "", errors.New("find module: not inside one")
	}
	return filepath.Dir(mod), nil
}

// goCommand runs the go tool in a module by itself and returns what it printed.
func goCommand(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0", "GOFLAGS=")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}
