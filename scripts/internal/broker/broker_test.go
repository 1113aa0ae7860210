package broker_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/broker"
	"github.com/holdfast-edge/holdfast/scripts/internal/loopback"
	"github.com/holdfast-edge/holdfast/scripts/internal/process"
	"github.com/holdfast-edge/holdfast/scripts/internal/require"
)

// Each broker starts, is ready again after a kill, and after a wipe holds nothing that it had stored, on the same address.
func TestBrokersStartDieAndAreWiped(t *testing.T) {
	for _, kind := range broker.Kinds() {
		t.Run(kind.Name, func(t *testing.T) {
			t.Parallel()
			s := start(t, kind)
			addr := s.Addr
			await(t, s)
			check(t, s.Kill())
			if err := s.Ready(t.Context()); err == nil {
				t.Fatal("it is ready although it was killed")
			}
			check(t, s.Start())
			await(t, s)
			mark := filepath.Join(s.Data(), "mark")
			check(t, os.WriteFile(mark, nil, 0o600))
			check(t, s.Wipe())
			if _, err := os.Stat(mark); !errors.Is(err, os.ErrNotExist) {
				t.Fatalf("what was stored is still there: %v", err)
			}
			check(t, s.Start())
			await(t, s)
			if s.Addr != addr {
				t.Fatalf("it moved from %s to %s", addr, s.Addr)
			}
		})
	}
}

// A sidecar is told of a broker in the words of its component files.
func TestEnvIsWhatTheComponentFilesRead(t *testing.T) {
	root, err := filepath.Abs("../../..")
	check(t, err)
	for _, kind := range broker.Kinds() {
		for _, side := range []string{"edge", "cloud"} {
			file, err := os.ReadFile(filepath.Join(root, "dapr-components", kind.Name, side, "pubsub.yaml"))
			check(t, err)
			variable, _, _ := strings.Cut(kind.Env("host:1")[0], "=")
			if !strings.Contains(string(file), "{name: "+variable+", ") {
				t.Errorf("%s/%s does not read %s", kind.Name, side, variable)
			}
		}
	}
}

// A name that is no broker's is refused with those that are; MQTT answers to mosquitto too.
func TestNamed(t *testing.T) {
	if k, err := broker.Named("mosquitto"); err != nil || k.Name != "mqtt" {
		t.Fatalf("mosquitto is %q, %v", k.Name, err)
	}
	if _, err := broker.Named("zeromq"); err == nil || !strings.Contains(err.Error(), "nats, mqtt, redis, rabbitmq, kafka") {
		t.Fatalf("error = %v", err)
	}
}

func start(t *testing.T, kind broker.Kind) *broker.Server {
	t.Helper()
	var program string
	if kind.Program == "" {
		program = require.Built(t, "HOLDFAST_NATS_SERVER")
	} else {
		var err error
		if program, err = kind.Find(); err != nil {
			require.Missing(t, strings.TrimSuffix(kind.Program, "-server"), err.Error())
		}
	}
	g := process.NewGroup()
	dir := t.TempDir()
	t.Cleanup(func() {
		if t.Failed() {
			b, err := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("%s\n%v", b, err)
		}
		check(t, g.Close(20*time.Second))
	})
	s, err := kind.Start(g, broker.Options{Dir: dir, Log: filepath.Join(dir, "log"), Program: program, Address: address})
	check(t, err)
	return s
}

func address() (string, error) {
	var ports loopback.Ports
	return ports.Next()
}

// await polls until the broker is ready; RabbitMQ takes some seconds, on a busy machine many.
func await(t *testing.T, s *broker.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	for {
		err := s.Ready(ctx)
		if err == nil {
			return
		}
		select {
		case <-s.Done():
			t.Fatal("it ended by itself")
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
