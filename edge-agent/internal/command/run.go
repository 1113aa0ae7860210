package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/agent"
	"github.com/holdfast-edge/holdfast/edge-agent/internal/config"
)

// memoryLimit is where the garbage collector begins to work harder. The smallest
// Pi has 512 MB for everything; what the agent holds at 10 000 messages a second
// is well below. bbolt's mapped files are the kernel's to take back and do not
// count. GOMEMLIMIT overrides it.
const memoryLimit = 24 << 20

func run(ctx context.Context, e *Env, args []string) error {
	f := e.flags("run", "Takes readings in, stores them and sends them, until SIGTERM or Ctrl-C.")
	path := f.String("config", "", "settings `FILE` (YAML); see edge-agent.example.yaml")
	if err := f.parse(args, 0); err != nil {
		return err
	}
	c, warnings, err := e.load(*path)
	if err != nil {
		return err
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	log := newLogger(e.Stderr, c.Log)
	for _, w := range warnings {
		log.Warn("setting ignored", "reason", w)
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	a, err := agent.New(agent.Options{Config: c, Version: e.Version, Logger: log})
	if err != nil {
		return err
	}
	err = a.Run(ctx)
	if errors.Is(err, agent.ErrRestart) && ctx.Err() == nil {
		return restart()
	}
	return err
}

// restart becomes the same program anew, with the same process id: whoever
// supervises it sees no end.
func restart() error {
	self, err := os.Executable()
	if err == nil {
		err = syscall.Exec(self, os.Args, os.Environ())
	}
	return fmt.Errorf("restart for a drill: %w", err)
}

func newLogger(w io.Writer, c config.Log) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(strings.ToUpper(c.Level))); err != nil {
		panic("BUG: log.level passed validation: " + c.Level)
	}
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

func check(_ context.Context, e *Env, args []string) error {
	f := e.flags("check", "Checks settings, and the files and folders that they name. Changes nothing.")
	path := f.String("config", "", "settings `FILE` (YAML)")
	if err := f.parse(args, 0); err != nil {
		return err
	}
	c, warnings, err := e.load(*path)
	if err != nil {
		return err
	}
	if err := agent.Check(c); err != nil {
		return usageError{err}
	}
	for _, w := range warnings {
		_, _ = fmt.Fprintln(e.Stderr, "warning:", w)
	}
	_, err = fmt.Fprintf(e.Stdout, "settings are good: agent %s, data in %s\n", c.Agent, c.Data)
	return err
}

func trimEnd(s string) string { return strings.TrimRight(s, "\r\n") }
