package process

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// parentRole makes the test binary play the parent that crashes.
const parentRole = "HOLDFAST_TEST_PARENT_LOG"

func TestMain(m *testing.M) {
	if log := os.Getenv(parentRole); log != "" {
		playParent(log)
	}
	os.Exit(m.Run())
}

func playParent(log string) {
	p, err := NewGroup().Start(Spec{Name: "sleeper", Path: "/bin/sleep", Args: []string{"600"}, Log: log})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(p.Pid())
	select {}
}

// A child dies with a parent that was killed and could clean nothing up.
func TestChildDiesWithItsParent(t *testing.T) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), parentRole+"="+filepath.Join(t.TempDir(), "log"))
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	child, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("the parent printed %q", line)
	}
	_ = parent.Process.Kill()
	_ = parent.Wait()
	waitFor(t, "the child's end", func() bool { return syscall.Kill(child, 0) != nil || zombie(child) })
}

// zombie: an orphan that nobody has reaped yet is dead all the same.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z")
}

// A process that ends by itself is reported with the end of its log; one that was killed or stopped is not.
func TestOnlyUnaskedEndsAreReported(t *testing.T) {
	g := newGroup(t)
	asked := start(t, g, "sleep 600")
	if err := asked.Kill(); err != nil {
		t.Fatal(err)
	}
	start(t, g, "echo out of luck; exit 3")
	select {
	case err := <-g.Failed():
		if !strings.Contains(err.Error(), "out of luck") || !strings.Contains(err.Error(), "exit status 3") {
			t.Fatalf("report = %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no report")
	}
	if len(g.Failed()) != 0 {
		t.Fatalf("a second report: %v", <-g.Failed())
	}
}

// A process that is to be restarted comes back by itself after it ended by itself, and stays away once someone wanted that.
func TestRestartsWhatEndedByItself(t *testing.T) {
	g := newGroup(t)
	p, err := g.Start(Spec{Name: "weak", Path: "/bin/sh", Args: []string{"-c", "sleep 600"}, Log: filepath.Join(t.TempDir(), "log"), Restart: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	first := p.Pid()
	if err := syscall.Kill(-first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the next run", func() bool { return p.Ends() == 1 && p.Running() && p.Pid() != first })
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond) // many times Restart
	if p.Running() || p.Ends() != 1 || len(g.Failed()) != 0 {
		t.Fatalf("running %v, ended by itself %d times, %d reports", p.Running(), p.Ends(), len(g.Failed()))
	}
}

// A killed process starts again under the same spec and goes on in the same log.
func TestRestartAppendsToTheLog(t *testing.T) {
	g := newGroup(t)
	p := start(t, g, "echo run; sleep 600")
	waitFor(t, "first run", func() bool { return strings.Count(p.Tail(9), "run") == 1 })
	if err := p.Start(); err == nil {
		t.Fatal("a second start of a running process was allowed")
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if p.Running() {
		t.Fatal("it runs after Kill")
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "second run", func() bool { return strings.Count(p.Tail(9), "run") == 2 })
}

// Stop takes the whole process group, ends a frozen process too, and says when it had to kill.
func TestStopEndsTheWholeGroup(t *testing.T) {
	g := newGroup(t)
	p := start(t, g, "sleep 600 & echo $!; wait")
	waitFor(t, "grandchild", func() bool { return p.Tail(1) != "" })
	grandchild, err := strconv.Atoi(p.Tail(1))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Freeze(); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the grandchild's end", func() bool { return syscall.Kill(grandchild, 0) != nil || zombie(grandchild) })

	deaf := start(t, g, "trap '' TERM; echo deaf; while :; do sleep 0.1; done")
	waitFor(t, "trap", func() bool { return deaf.Tail(1) == "deaf" })
	if err := deaf.Stop(200 * time.Millisecond); err == nil {
		t.Fatal("a process that ignores SIGTERM ended without a word")
	}
	if deaf.Running() {
		t.Fatal("it survived")
	}
}

// The shell's settings do not reach the programs; the spec's do.
func TestEnvironmentIsMinimal(t *testing.T) {
	t.Setenv("DAPR_API_TOKEN", "leak")
	g := newGroup(t)
	p, err := g.Start(Spec{
		Name: "env", Path: "/bin/sh", Args: []string{"-c", "env; sleep 600"},
		Env: []string{"GIVEN=1"}, Log: filepath.Join(t.TempDir(), "log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "env", func() bool { return strings.Contains(p.Tail(99), "GIVEN=1") })
	if strings.Contains(p.Tail(99), "leak") {
		t.Fatal("the environment leaked")
	}
}

// CPU time counts the runs that ended as well as the one that runs.
func TestCPUAddsUpOverRuns(t *testing.T) {
	g := newGroup(t)
	p := start(t, g, "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo done; sleep 600")
	waitFor(t, "some work", func() bool { return p.Tail(1) == "done" })
	first := p.CPU()
	if first <= 0 {
		t.Fatalf("CPU = %v", first)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if after := p.CPU(); after < first-10*time.Millisecond {
		t.Fatalf("CPU fell from %v to %v when it ended", first, after)
	}
	if m, err := p.Memory(); err == nil {
		t.Fatalf("memory of a dead process: %+v", m)
	}
}

func newGroup(t *testing.T) *Group {
	t.Helper()
	g := NewGroup()
	t.Cleanup(func() { _ = g.Close(time.Second) })
	return g
}

func start(t *testing.T, g *Group, script string) *Process {
	t.Helper()
	p, err := g.Start(Spec{
		Name: "script", Path: "/bin/sh", Args: []string{"-c", script},
		Log: filepath.Join(t.TempDir(), "log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited 20 s for %s", what)
}
