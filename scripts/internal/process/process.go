// Package process runs programs that never outlive this one. Each runs in a
// process group of its own, so that Ctrl-C reaches this program alone and it
// decides in which order the others end; where the kernel can (Linux), a crash
// of this program kills them too.
package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Spec says what to run.
type Spec struct {
	Name string   // for messages
	Path string   // the executable
	Args []string // without the program's name
	Env  []string // in addition to a clean minimum (PATH, HOME, TMPDIR)
	Dir  string   // working folder; empty: this one's
	Log  string   // file that stdout and stderr are appended to

	// Restart is how soon it is started again when it ended by itself, as
	// systemd would; 0: never, and its end is a failure of the group.
	Restart time.Duration

	// User runs it as somebody else, which only root may; nil: as this program.
	User *User
	// Quit is what asks it to end; 0: SIGTERM.
	Quit syscall.Signal
}

// User is an account of the system.
type User struct{ UID, GID uint32 }

// Process is one program that can be killed, frozen and started again. Its
// methods may be called from several goroutines.
type Process struct {
	spec  Spec
	group *Group

	mu      sync.Mutex
	cmd     *exec.Cmd
	done    chan struct{} // closed when cmd has been waited for
	wanted  bool          // someone asked for the end of cmd
	used    time.Duration // CPU time of the runs that ended
	started time.Time
	ends    int // by itself

	starting sync.Mutex // held while it is decided whether to start it
}

// Name returns the name given in the spec.
func (p *Process) Name() string { return p.spec.Name }

// Log returns the path of the log file.
func (p *Process) Log() string { return p.spec.Log }

// Pid returns the process id of the current (or last) run.
func (p *Process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}

// Running reports whether the current run has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.Done():
		return false
	default:
		return true
	}
}

// Done is closed when the current run ends.
func (p *Process) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// Kill ends the process with SIGKILL, as a pulled plug would, and waits for it.
func (p *Process) Kill() error { return p.end(syscall.SIGKILL, 10*time.Second) }

// Stop asks with SIGTERM, or what the spec says, waits at most limit, then kills. It returns an error
// that says so when it had to kill.
func (p *Process) Stop(limit time.Duration) error {
	quit := p.spec.Quit
	if quit == 0 {
		quit = syscall.SIGTERM
	}
	err := p.end(quit, limit)
	if err == nil {
		return nil
	}
	if killErr := p.Kill(); killErr != nil {
		return errors.Join(err, killErr)
	}
	return err
}

// End sends a signal that ends the program, waits at most limit, and does not
// count it as an end by itself.
func (p *Process) End(s syscall.Signal, limit time.Duration) error { return p.end(s, limit) }

// Freeze stops the process where it is (SIGSTOP): its connections stay open and
// silent.
func (p *Process) Freeze() error { return p.signal(syscall.SIGSTOP) }

// Thaw lets a frozen process go on.
func (p *Process) Thaw() error { return p.signal(syscall.SIGCONT) }

// Ends returns how often the program ended by itself.
func (p *Process) Ends() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ends
}

// Start runs the program again after Kill or Stop, with the same spec.
func (p *Process) Start() error {
	p.starting.Lock()
	defer p.starting.Unlock()
	if p.Running() {
		return fmt.Errorf("start %s: it is running", p.spec.Name)
	}
	return p.group.launch(p)
}

// CPU returns the user and system time of every run so far.
func (p *Process) CPU() time.Duration {
	p.mu.Lock()
	used, pid := p.used, p.cmd.Process.Pid
	p.mu.Unlock()
	if p.Running() {
		used += liveCPU(pid)
	}
	return used
}

// Tail returns at most the last n lines of the log.
func (p *Process) Tail(n int) string {
	b, err := os.ReadFile(p.spec.Log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func (p *Process) signal(s syscall.Signal) error {
	pid := p.Pid()
	if !p.Running() {
		return fmt.Errorf("signal %s: it is not running", p.spec.Name)
	}
	if err := syscall.Kill(-pid, s); err != nil {
		return fmt.Errorf("signal %s: %w", p.spec.Name, err)
	}
	return nil
}

func (p *Process) end(s syscall.Signal, limit time.Duration) error {
	p.starting.Lock()
	p.mu.Lock()
	p.wanted = true
	pid, done := p.cmd.Process.Pid, p.done
	p.mu.Unlock()
	p.starting.Unlock()
	if !p.Running() {
		return nil
	}
	if err := syscall.Kill(-pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end %s: %w", p.spec.Name, err)
	}
	if s != syscall.SIGKILL {
		// A frozen process would take its signal only when thawed.
		_ = syscall.Kill(-pid, syscall.SIGCONT)
	}
	select {
	case <-done:
		return nil
	case <-time.After(limit):
		return fmt.Errorf("end %s: still there %v after %v", p.spec.Name, limit, s)
	}
}

// wait collects one run and reports it when nobody asked for its end.
func (p *Process) wait(cmd *exec.Cmd, done chan struct{}, log *os.File) {
	err := cmd.Wait()
	_ = log.Close() // the child wrote it; nothing of ours is buffered
	p.mu.Lock()
	wanted := p.wanted
	if !wanted {
		p.ends++
	}
	p.used += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	p.mu.Unlock()
	close(done)
	if wanted {
		return
	}
	if p.spec.Restart > 0 {
		err = p.again(cmd)
		if err == nil {
			return
		}
	}
	state := "exit status 0"
	if err != nil {
		state = err.Error()
	}
	p.group.report(fmt.Errorf("%s ended by itself after %v: %s\nend of %s:\n%s",
		p.spec.Name, time.Since(p.started).Round(time.Millisecond), state, p.spec.Log, p.Tail(15)))
}

// again starts the program once more after a while, unless somebody asked for
// its end or has started it meanwhile.
func (p *Process) again(ended *exec.Cmd) error {
	time.Sleep(p.spec.Restart)
	p.starting.Lock()
	defer p.starting.Unlock()
	p.mu.Lock()
	mine := p.cmd == ended && !p.wanted
	p.mu.Unlock()
	if !mine {
		return nil
	}
	return p.group.launch(p)
}
