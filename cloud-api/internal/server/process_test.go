package server_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/config"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/server"
)

// asServer in the environment makes the test binary a server with these settings.
const asServer = "HOLDFAST_TEST_SERVER"

func TestMain(m *testing.M) {
	if text := os.Getenv(asServer); text != "" {
		if err := serve(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serve runs a server until SIGTERM and prints where it listens.
func serve(settings string) error {
	var cfg config.Config
	if err := json.Unmarshal([]byte(settings), &cfg); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s, err := server.Open(ctx, cfg, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	fmt.Println(s.PublicAddr(), s.AppAddr())
	return s.Run(ctx)
}

// process starts a server as a process of its own, so that its memory and its
// files are its own too.
func process(t *testing.T, cfg config.Config) (*cloud, *os.Process) {
	t.Helper()
	settings, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asServer+"="+string(settings))
	cmd.Stderr, cmd.SysProcAttr = os.Stderr, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server's process: %v", err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	public, app, ok := strings.Cut(strings.TrimSpace(line), " ")
	if err != nil || !ok {
		t.Fatalf("the server's process says %q, %v", line, err)
	}
	return &cloud{t: t, cfg: cfg, public: "http://" + public, app: "http://" + app, stop: func() error { return nil }}, cmd.Process
}

// peak returns the most memory that a process has had resident, in bytes.
func peak(t *testing.T, p *os.Process) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmHWM:" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal("no VmHWM in /proc/PID/status")
	return 0
}

// files counts what a process has open.
func files(t *testing.T, p *os.Process) int {
	t.Helper()
	list, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
