package term

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"syscall"
	"testing"
)

// The exit status tells a run that failed from one that could not take place, wrong usage, help and an interruption.
func TestPlayStatus(t *testing.T) {
	broken := errors.New("no compiler")
	for _, c := range []struct {
		what   string
		status int
		err    error
		want   int
	}{
		{"passed", 0, nil, 0},
		{"failed", 1, nil, 1},
		{"not played", 0, broken, 3},
		{"wrong usage", 0, fmt.Errorf("parse: %w", Usage(broken)), 2},
		{"help", 0, Usage(flag.ErrHelp), 0},
		{"no error", 0, Usage(nil), 0},
	} {
		got := Play("test", 3, func(context.Context) (int, error) { return c.status, c.err })
		if got != c.want {
			t.Errorf("%s: status %d, want %d", c.what, got, c.want)
		}
	}
}

// A signal ends the context, and the status is the one that shells give to an interruption.
func TestPlayIsInterrupted(t *testing.T) {
	got := Play("test", 1, func(ctx context.Context) (int, error) {
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		<-ctx.Done()
		return 0, ctx.Err()
	})
	if got != 130 {
		t.Errorf("status %d", got)
	}
}
