package stack_test

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/device"
	"github.com/holdfast-edge/holdfast/scripts/internal/require"
	"github.com/holdfast-edge/holdfast/scripts/internal/stack"
)

// Of a revoked agent nothing is stored, and it loses nothing: it says that it is
// revoked, keeps its readings, and everything arrives once it is allowed again.
func TestRevokedAgentLosesNothing(t *testing.T) {
	s := start(t)
	log, published := publish(t, s, 8*time.Second)
	pause(t, 2*time.Second)
	cloudAPI(t, s, "agent", "revoke", s.Edge.ID)
	await(t, "the agent says that it is revoked", func() bool { return mode(t, s) == "revoked" })
	before, err := s.Client().Agent(t.Context(), s.Edge.ID)
	check(t, err)
	check(t, <-published)
	during, err := s.Client().Agent(t.Context(), s.Edge.ID)
	check(t, err)
	if during.Held != before.Held {
		t.Errorf("%d records are held, %d were when the agent was revoked", during.Held, before.Held)
	}
	check(t, s.Edge.Agent.Kill())
	check(t, s.Edge.Agent.Start())
	post(t, s, "/v1/agents/"+s.Edge.ID+"/allow")
	found := readBack(t, s, log)
	if found.Stored == during.Held {
		t.Error("nothing was kept back: this test proves nothing")
	}
	if found.Missing+found.Duplicates+found.Altered > 0 || found.Stored != found.Published {
		t.Fatalf("found %+v\n%q", found, found.Examples)
	}
	if m := mode(t, s); m == "revoked" {
		t.Errorf("the agent's mode is %s", m)
	}
}

// The root is replaced while an agent is away: the agent, which knows only the old
// one, goes on as if nothing had happened, and a new agent enrols with the new one.
func TestRootIsReplacedBehindAnAgentsBack(t *testing.T) {
	s := start(t)
	log, published := publish(t, s, 6*time.Second)
	pause(t, time.Second)
	check(t, s.Edge.Link.Cut())
	if said := cloudAPI(t, s, "keys", "rotate-root"); !strings.HasPrefix(said, "new root ") {
		t.Fatalf("rotate-root says %q", said)
	}
	await(t, "the cloud uses the new root", func() bool { return strings.Contains(s.Cloud.API.Tail(100), "keys: root replaced") })
	check(t, s.Edge.Link.Heal())
	check(t, <-published)
	found := readBack(t, s, log) // ends when the agent holds nothing any more: only receipts that it believes do that
	if found.Missing+found.Duplicates+found.Altered > 0 || found.Stored != found.Published {
		t.Fatalf("found %+v\n%q", found, found.Examples)
	}
	second, err := s.Device(t.Context(), "second", "second-pi", filepath.Join(s.Dir(), "edge", "second"), "")
	check(t, err)
	await(t, "a new agent trusts the new root", func() bool {
		status, err := device.Get(t.Context(), second.Status)
		return err == nil && status.Enrolled() && status.Waiting == 0
	})
}

// cloudAPI runs a command of cloud-api on the running cloud's configuration.
func cloudAPI(t *testing.T, s *stack.Stack, args ...string) string {
	t.Helper()
	var said, complaint strings.Builder
	cmd := exec.CommandContext(t.Context(), require.Built(t, "HOLDFAST_CLOUD_API"), append(args, "--config", filepath.Join(s.Dir(), "cloud", "cloud-api.yaml"))...)
	cmd.Stdout, cmd.Stderr = &said, &complaint
	if err := cmd.Run(); err != nil {
		t.Fatalf("cloud-api %v: %v\n%s", args, err, complaint.String())
	}
	return said.String()
}

func post(t *testing.T, s *stack.Stack, path string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.Cloud.URL+path, nil)
	check(t, err)
	resp, err := http.DefaultClient.Do(req)
	check(t, err)
	check(t, resp.Body.Close())
	if resp.StatusCode != http.StatusNoContent {
		t.Fatalf("POST %s: %s", path, resp.Status)
	}
}

func mode(t *testing.T, s *stack.Stack) string {
	t.Helper()
	status, err := device.Get(t.Context(), s.Edge.Status)
	if err != nil {
		return fmt.Sprint(err)
	}
	return status.Mode
}

// await polls for a minute and a half: an idle agent is heard once a minute.
func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	for !is() {
		select {
		case <-ctx.Done():
			t.Fatalf("in vain awaited: %s", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
