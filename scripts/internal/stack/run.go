package stack

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/build"
	"github.com/holdfast-edge/holdfast/scripts/internal/device"
	"github.com/holdfast-edge/holdfast/scripts/internal/process"
)

func (s *Stack) run(p build.Program, name string, env []string, args ...string) (*process.Process, error) {
	spec := process.Spec{
		Name: name,
		Path: s.o.Programs[p.Name],
		Args: args,
		Env:  env,
		Dir:  s.o.Dir,
		Log:  filepath.Join(s.o.Dir, "log", name+".log"),
	}
	spec.Restart = s.o.Supervise
	switch p {
	case build.Daprd:
		spec.Env = append(spec.Env, s.o.Env...)
		spec.Restart = max(spec.Restart, s.o.Restart)
	case build.EdgeAgent:
		spec.Env = append(spec.Env, s.o.AgentEnv...)
	}
	return s.group.Start(spec)
}

// await polls url until it answers with a 2xx. It gives up when the program
// ends, when ctx does, and after readyLimit.
func (s *Stack) await(ctx context.Context, p *process.Process, url string) error {
	return until(ctx, p, func() error { return probe(ctx, url) })
}

// enrolled waits until the agent knows its cloud: before that it sends nothing.
func (s *Stack) enrolled(ctx context.Context, e *Edge) error {
	return until(ctx, e.Agent, func() error {
		status, err := device.Get(ctx, e.Status)
		if err == nil && !status.Enrolled() {
			err = errors.New("it is not enrolled")
		}
		return err
	})
}

// until polls ready.
func until(ctx context.Context, p *process.Process, ready func() error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyLimit, errNotReady)
	defer cancel()
	var last error
	for {
		if last = ready(); last == nil {
			return nil
		}
		select {
		case <-p.Done():
			return fmt.Errorf("%s ended before it was ready; end of %s:\n%s", p.Name(), p.Log(), p.Tail(15))
		case <-ctx.Done():
			if !errors.Is(context.Cause(ctx), errNotReady) {
				return ctx.Err()
			}
			return fmt.Errorf("%s is not ready after %v: %w\nend of %s:\n%s", p.Name(), readyLimit, last, p.Log(), p.Tail(15))
		case <-time.After(30 * time.Millisecond):
		}
	}
}

var errNotReady = errors.New("not ready")

// Settle waits until at most so many records are on the device, by its own count
// and by the cloud's. It asks every 20 ms, gives up after limit, and then says
// how many there were.
func (s *Stack) Settle(ctx context.Context, most uint64, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		status, err := device.Get(ctx, s.Edge.Status)
		agent, cloudErr := s.Client().Agent(ctx, s.Edge.ID)
		if err == nil && cloudErr == nil && status.Waiting <= most && agent.OnDevice <= most {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("after %v, %d records wait on the device, and the cloud knows of %d: %w",
				limit, status.Waiting, agent.OnDevice, errors.Join(ctx.Err(), err, cloudErr))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func probe(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close() // nothing of it is used
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}

// enrolmentToken writes a token to where the agent will redeem it when it starts.
func (s *Stack) enrolmentToken(ctx context.Context, agent string) error {
	token, err := s.Token(ctx, agent)
	if err != nil {
		return err
	}
	return writeFile(s.tokenFile(agent), token)
}

// Token lets the cloud make an enrolment token for an agent: one line.
func (s *Stack) Token(ctx context.Context, agent string) (string, error) {
	cmd := exec.CommandContext(ctx, s.o.Programs[build.CloudAPI.Name], "token", "create",
		"--config", s.cloudFile(0), "--agent", agent)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	token, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("create enrolment token: %w: %s", err, complaint.Bytes())
	}
	return string(token), nil
}

func (s *Stack) tokenFile(agent string) string {
	return filepath.Join(s.o.Dir, "edge", "enrolment-token-"+agent)
}

// cloudFile is the configuration of a replica.
func (s *Stack) cloudFile(replica int) string {
	return filepath.Join(s.o.Dir, "cloud", "cloud-api"+suffix(replica)+".yaml")
}

func (s *Stack) appToken() string { return filepath.Join(s.o.Dir, "cloud", "app-token") }
func (s *Stack) dsnFile() string  { return filepath.Join(s.o.Dir, "cloud", "dsn") }

// suffix tells the files of a replica from those of the first.
func suffix(replica int) string {
	if replica == 0 {
		return ""
	}
	return fmt.Sprintf("-%d", replica+1)
}

func newSecret(path string) (string, error) {
	secret := rand.Text()
	return secret, writeFile(path, secret)
}

func writeFile(path, text string) error {
	return os.WriteFile(path, []byte(text), 0o600)
}
