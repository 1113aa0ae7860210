package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// Group starts processes and ends them all. Make one with NewGroup.
type Group struct {
	calls  chan func()
	failed chan error

	mu    sync.Mutex
	procs []*Process // in the order of their first start
}

// NewGroup returns an empty group. Close ends what it started.
func NewGroup() *Group {
	g := &Group{calls: make(chan func()), failed: make(chan error, 16)}
	go g.forker()
	return g
}

// forker starts every child from one thread that lives as long as the group:
// the kernel sends the parent-death signal when the *thread* that forked ends,
// and the Go runtime may end threads.
func (g *Group) forker() {
	runtime.LockOSThread()
	for f := range g.calls {
		f()
	}
	runtime.UnlockOSThread()
}

// Start runs spec. It returns once the program was executed, not when it is
// ready.
func (g *Group) Start(spec Spec) (*Process, error) {
	p := &Process{spec: spec, group: g}
	if err := g.launch(p); err != nil {
		return nil, err
	}
	g.mu.Lock()
	g.procs = append(g.procs, p)
	g.mu.Unlock()
	return p, nil
}

// Failed delivers an error for each process that ended although nobody asked
// it to; its text has the end of the log.
func (g *Group) Failed() <-chan error { return g.failed }

// Close stops every process, the last started first, giving each up to limit
// before it is killed. The group cannot be used afterwards.
func (g *Group) Close(limit time.Duration) error {
	g.mu.Lock()
	procs := g.procs
	g.procs = nil
	g.mu.Unlock()
	var errs []error
	for i := len(procs) - 1; i >= 0; i-- {
		errs = append(errs, procs[i].Stop(limit))
	}
	close(g.calls)
	return errors.Join(errs...)
}

func (g *Group) launch(p *Process) error {
	if err := os.MkdirAll(filepath.Dir(p.spec.Log), 0o755); err != nil {
		return fmt.Errorf("start %s: %w", p.spec.Name, err)
	}
	log, err := os.OpenFile(p.spec.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.spec.Name, err)
	}
	cmd := exec.Command(p.spec.Path, p.spec.Args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.spec.Dir, log, log
	cmd.Env = append(minimalEnv(), p.spec.Env...)
	cmd.SysProcAttr = attributes()
	if u := p.spec.User; u != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: u.UID, Gid: u.GID}
	}
	if err := g.fork(cmd); err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", p.spec.Name, err), log.Close())
	}
	done := make(chan struct{})
	p.mu.Lock()
	p.cmd, p.done, p.wanted, p.started = cmd, done, false, time.Now()
	p.mu.Unlock()
	go p.wait(cmd, done, log)
	return nil
}

func (g *Group) fork(cmd *exec.Cmd) error {
	result := make(chan error, 1)
	g.calls <- func() { result <- cmd.Start() }
	return <-result
}

func (g *Group) report(err error) {
	select {
	case g.failed <- err:
	default: // sixteen are waiting already: the first of them says enough
	}
}

// minimalEnv keeps a setting of the person's shell, such as a proxy or a Dapr
// token, from changing what the started programs do.
func minimalEnv() []string {
	var env []string
	for _, k := range []string{"PATH", "HOME", "TMPDIR", "USER"} {
		if v, ok := os.LookupEnv(k); ok {
			env = append(env, k+"="+v)
		}
	}
	return env
}
