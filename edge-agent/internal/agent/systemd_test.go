package agent

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// The service manager hears that the agent is ready, that it lives, and that it
// stops.
func TestSystemdIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	env := map[string]string{"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "20000"}
	looked := 0
	s := newSystemd(func(k string) string { return env[k] }, func() { looked++ }, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	hear := func() string {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		n, _, err := conn.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	for _, want := range []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1"} {
		if got := hear(); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
	cancel()
	if err := <-ended; err != nil || looked < 2 {
		t.Errorf("got %v, looked %d times", err, looked)
	}
	for hear() != "STOPPING=1" {
	}
}

// Without a service manager, or with one that is gone, the agent runs.
func TestSystemdMayBeAway(t *testing.T) {
	for _, socket := range []string{"", "/nowhere/notify"} {
		s := newSystemd(func(string) string { return socket }, nil, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Run(ctx); err != nil {
			t.Errorf("%q: got %v", socket, err)
		}
	}
}
