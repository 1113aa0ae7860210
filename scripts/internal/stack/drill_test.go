package stack_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/device"
	"github.com/holdfast-edge/holdfast/scripts/internal/require"
	"github.com/holdfast-edge/holdfast/scripts/internal/stack"
)

// A drill on a live device proves by the cloud's receipts that all of its messages arrived, while sensors lose nothing; its report is worth nothing once it was changed; and with the network away it refuses.
func TestDrillOnALiveDevice(t *testing.T) {
	s := start(t)
	await(t, "receipts come", func() bool {
		status, err := device.Get(t.Context(), s.Edge.Status)
		return err == nil && status.Mode == "current"
	})
	log, published := publish(t, s, 6*time.Second)
	report, words := drill(t, s, true, "--cut", "3s", "--messages", "50")
	if !strings.Contains(words, "proven: cloud demo-cloud has all 100 messages") {
		t.Fatalf("%s", words)
	}
	file := filepath.Join(t.TempDir(), "report.json")
	check(t, os.WriteFile(file, report, 0o600))
	drill(t, s, true, "verify", file)
	var changed map[string]any
	check(t, json.Unmarshal(report, &changed))
	changed["messages"] = 101
	text, err := json.Marshal(changed)
	check(t, err)
	check(t, os.WriteFile(file, text, 0o600))
	drill(t, s, false, "verify", file)
	check(t, <-published)
	if found := readBack(t, s, log); found.Missing+found.Duplicates+found.Altered > 0 {
		t.Fatalf("found %+v\n%q", found, found.Examples)
	}
	check(t, s.Cloud.API.Kill())
	check(t, s.Edge.Link.Cut())
	check(t, s.Edge.Agent.Kill())
	check(t, s.Edge.Agent.Start())
	check(t, s.AgentReady(t.Context()))
	if _, words := drill(t, s, false, "--cut", "3s"); !strings.Contains(words, "refused: no receipts come") {
		t.Fatalf("%s", words)
	}
}

// drill runs the agent's verb, which is to succeed or not, and returns what it printed.
func drill(t *testing.T, s *stack.Stack, good bool, args ...string) (report []byte, words string) {
	t.Helper()
	verb := []string{"drill"}
	if args[0] == "verify" {
		verb, args = append(verb, args[0]), args[1:]
	}
	verb = append(verb, "--config", filepath.Join(s.Dir(), "edge", "edge-agent.yaml"))
	cmd := exec.CommandContext(t.Context(), require.Built(t, "HOLDFAST_EDGE_AGENT"), append(verb, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); (err == nil) != good {
		t.Fatalf("drill %q: %v\n%s%s", args, err, &out, &errs)
	}
	return out.Bytes(), errs.String()
}
