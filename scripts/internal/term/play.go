package term

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// The exit statuses that every program here has in common.
const (
	statusUsage       = 2
	statusInterrupted = 130 // as shells say it of SIGINT
)

// UsageError is a flag that makes no sense.
type UsageError struct{ error }

// Usage says that an error is one of the flags; nil stays nil, and a call for help
// is none.
func Usage(err error) error {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return err
	}
	return UsageError{err}
}

// Play runs a program that SIGINT and SIGTERM end in order, and returns its exit
// status: what run returns, or failed when it could not be run.
func Play(name string, failed int, run func(ctx context.Context) (status int, err error)) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first signal the next one kills at once; the kernel then ends
	// what was started.
	context.AfterFunc(ctx, stop)
	defer stop()
	status, err := run(ctx)
	switch {
	case err == nil:
		return status
	case errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, new(UsageError)):
		failed = statusUsage
	case ctx.Err() != nil:
		err, failed = errors.New("interrupted; everything that was started has ended"), statusInterrupted
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	return failed
}

// JSON prints v as one line on standard output, for other programs; not if no one
// asked for it.
func JSON(asked bool, v any) error {
	if !asked {
		return nil
	}
	line, err := json.Marshal(v)
	if err == nil {
		_, err = fmt.Println(string(line))
	}
	return err
}
