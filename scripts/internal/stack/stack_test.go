package stack_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/build"
	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
	"github.com/holdfast-edge/holdfast/scripts/internal/require"
	"github.com/holdfast-edge/holdfast/scripts/internal/sensors"
	"github.com/holdfast-edge/holdfast/scripts/internal/stack"
)

// Across a cut network and a killed agent everything that was acknowledged arrives, once; and Stop leaves no process.
func TestEverythingArrivesAcrossAnOutage(t *testing.T) {
	s := start(t)
	log, published := publish(t, s, 4*time.Second)
	pause(t, time.Second)
	check(t, s.Edge.Link.Cut())
	pause(t, time.Second)
	check(t, s.Edge.Agent.Kill())
	check(t, s.Edge.Agent.Start())
	pause(t, time.Second)
	check(t, s.Edge.Link.Heal())
	check(t, <-published)
	found := readBack(t, s, log)
	if found.Missing+found.Duplicates+found.Altered > 0 || found.Stored != found.Published {
		t.Fatalf("found %+v\n%q", found, found.Examples)
	}
	var pids []int
	for _, p := range s.Processes() {
		pids = append(pids, p.Pid())
	}
	check(t, s.Stop())
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d is left: %v", pid, err)
		}
	}
}

// The counting is able to fail: when the outbox of a killed agent is deleted, what waited in it is missing.
func TestDeletedOutboxIsNoticed(t *testing.T) {
	s := start(t)
	log, published := publish(t, s, 3*time.Second)
	pause(t, time.Second)
	check(t, s.Edge.Link.Cut())
	pause(t, time.Second)
	check(t, s.Edge.Agent.Kill())
	check(t, os.RemoveAll(filepath.Join(s.Edge.Data, "outbox")))
	check(t, s.Edge.Agent.Start())
	check(t, s.Edge.Link.Heal())
	check(t, <-published)
	found := readBack(t, s, log)
	if found.Missing == 0 {
		t.Fatalf("a deleted outbox was not noticed: %+v", found)
	}
	if found.Duplicates+found.Altered > 0 {
		t.Fatalf("found %+v\n%q", found, found.Examples)
	}
}

// Every program on the way may be killed and started again, or freeze for a while, and nothing is lost.
func TestEveryProgramMayDie(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	s := start(t)
	log, published := publish(t, s, 12*time.Second)
	for _, p := range s.Processes() {
		pause(t, 700*time.Millisecond)
		check(t, p.Kill())
		pause(t, 300*time.Millisecond)
		check(t, p.Start())
	}
	for _, p := range s.Processes() {
		pause(t, 700*time.Millisecond)
		check(t, p.Freeze())
		pause(t, 300*time.Millisecond)
		check(t, p.Thaw())
	}
	check(t, <-published)
	found := readBack(t, s, log)
	if found.Missing+found.Duplicates+found.Altered > 0 || found.Stored != found.Published {
		t.Fatalf("found %+v\n%q", found, found.Examples)
	}
}

// A program that cannot start is an error with the end of its log, and nothing is left running.
func TestStartSaysWhatFailed(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "cloud-api")
	check(t, os.WriteFile(broken, []byte("#!/bin/sh\necho no luck today\nexit 1\n"), 0o755))
	o := options(t)
	o.Programs[build.CloudAPI.Name] = broken
	_, err := stack.Start(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "cloud-api ended before it was ready") || !strings.Contains(err.Error(), "no luck today") {
		t.Fatalf("error = %v", err)
	}
}

func options(t *testing.T) stack.Options {
	t.Helper()
	root, err := filepath.Abs("../../..")
	check(t, err)
	return stack.Options{Root: root, Dir: t.TempDir(), Programs: build.Paths{
		build.NATSServer.Name: require.Built(t, "HOLDFAST_NATS_SERVER"),
		build.Daprd.Name:      require.Built(t, "HOLDFAST_DAPRD"),
		build.CloudAPI.Name:   require.Built(t, "HOLDFAST_CLOUD_API"),
		build.EdgeAgent.Name:  require.Built(t, "HOLDFAST_EDGE_AGENT"),
	}}
}

func start(t *testing.T) *stack.Stack {
	t.Helper()
	s, err := stack.Start(t.Context(), options(t))
	check(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			for _, p := range s.Processes() {
				t.Logf("end of %s:\n%s", p.Log(), p.Tail(20))
			}
		}
		check(t, s.Stop())
	})
	return s
}

// publish starts ten sensors that send 200 messages a second together.
func publish(t *testing.T, s *stack.Stack, length time.Duration) (*oracle.Oracle, <-chan error) {
	t.Helper()
	shape := sensors.Shape{Prefix: "test", Seed: 1}
	log := oracle.New(shape, 10)
	fleet := sensors.Fleet{Shape: shape, Addr: s.Edge.MQTT, Sensors: 10, Rate: 200, For: length, Log: log}
	ctx, cancel := context.WithTimeout(t.Context(), length+time.Minute)
	t.Cleanup(cancel)
	done := make(chan error, 1)
	go func() { done <- fleet.Run(ctx, nil) }()
	return log, done
}

func readBack(t *testing.T, s *stack.Stack, log *oracle.Oracle) oracle.Findings {
	t.Helper()
	check(t, s.Settle(t.Context(), 0, 90*time.Second))
	c := log.Check()
	check(t, s.Client().Readings(t.Context(), s.Edge.ID, c.Add))
	agent, err := s.Client().Agent(t.Context(), s.Edge.ID)
	check(t, err)
	if agent.Unexplained > 0 {
		t.Errorf("%d numbers are unexplained: %+v", agent.Unexplained, agent.Alarms)
	}
	return c.Findings()
}

// pause lets the load flow: the length is a part of the scenario, nothing is
// awaited by it.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
