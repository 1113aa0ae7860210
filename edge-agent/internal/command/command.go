// Package command is what edge-agent does with its arguments. It reads flags,
// settings and files, calls the packages that do the work, and turns errors into
// exit codes: 0 done, 1 failed, 2 wrong usage or settings.
package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/config"
)

// The exit codes.
const (
	Done   = 0
	Failed = 1
	Usage  = 2
)

// usageError is what is wrong with the arguments or the settings, and so for the
// user to mend.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

func wrong(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errShown has been printed already.
var errShown = errors.New("shown")

// Env is what a command sees of the process it runs in.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Environ        []string // as os.Environ gives it
	Version        string
}

type command struct {
	name, args, about string
	run               func(context.Context, *Env, []string) error
}

func commands() []command {
	return []command{
		{"run", "[--config FILE]", "take readings in, store them and send them, until SIGTERM", run},
		{"check", "[--config FILE]", "check settings, folders and files; changes nothing", check},
		{"status", "[--config FILE] [--address HOST:PORT] [--json]", "ask the running agent how it is", status},
		{"enroll", "[--config FILE] --url URL --token TOKEN", "make the agent known to a cloud (see enroll --help)", enroll},
		{"outbox", "stats|verify|export [--config FILE | --dir DIR]", "look into an outbox that no agent uses", outbox},
		{"user", "add --file FILE NAME", "let an MQTT client in; the password is read from standard input", user},
		{"drill", "[--config FILE] | verify [--config FILE] REPORT", "prove with the running agent that what it stores arrives", drillOrVerify},
		{"version", "", "print the version", version},
	}
}

const intro = `edge-agent takes MQTT readings in, keeps them on the disk, and sends them to the
cloud until the cloud's database has them. Nothing it acknowledged is lost.

`

const outro = `
Settings come from FILE, then from the environment: EDGE_OUTBOX__MAX_BYTES=1GiB is
outbox.max_bytes. edge-agent.example.yaml describes every one. Without --config
the defaults hold: MQTT on 127.0.0.1:1883, status on http://127.0.0.1:8090/.

To begin:
  edge-agent check  --config edge-agent.yaml
  edge-agent enroll --config edge-agent.yaml --url https://cloud.example --token-file token
  edge-agent run    --config edge-agent.yaml
  mosquitto_pub -q 1 -t workshop/temperature -m 21.5
  edge-agent status --config edge-agent.yaml

Exit codes: 0 done, 1 failed, 2 wrong usage or settings.
`

// Run does what args say (without the program's name) and returns the exit code.
func Run(ctx context.Context, env *Env, args []string) int {
	if len(args) == 0 {
		help(env.Stderr)
		return Usage
	}
	if slices.Contains([]string{"help", "-h", "-help", "--help"}, args[0]) {
		help(env.Stdout)
		return Done
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return env.code(c.run(ctx, env, args[1:]))
		}
	}
	_, _ = fmt.Fprintf(env.Stderr, "edge-agent: there is no command %q; see edge-agent --help\n", args[0])
	return Usage
}

func help(w io.Writer) {
	_, _ = io.WriteString(w, intro) // nobody to tell when the terminal is gone
	for _, c := range commands() {
		_, _ = fmt.Fprintf(w, "  edge-agent %s %s\n      %s\n", c.name, c.args, c.about)
	}
	_, _ = io.WriteString(w, outro)
}

func (e *Env) code(err error) int {
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return Done
	case errors.Is(err, errShown):
	default:
		_, _ = fmt.Fprintf(e.Stderr, "edge-agent: %v\n", err)
	}
	if errors.As(err, new(usageError)) {
		return Usage
	}
	return Failed
}

// flagSet is a command's flags and what --help says before them.
type flagSet struct {
	*flag.FlagSet
	about string
	out   io.Writer
}

func (e *Env) flags(name, about string) *flagSet {
	f := &flagSet{flag.NewFlagSet("edge-agent "+name, flag.ContinueOnError), about, e.Stdout}
	f.SetOutput(io.Discard) // errors are returned
	f.Usage = func() {}
	return f
}

// parse takes flags and exactly n other arguments; help, which was asked for,
// goes to standard output.
func (f *flagSet) parse(args []string, n int) error {
	err := f.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		_, _ = fmt.Fprintf(f.out, "%s\n\n", f.about) // nobody to tell when the terminal is gone
		f.SetOutput(f.out)
		f.PrintDefaults()
		return err
	}
	if err == nil && f.NArg() != n {
		err = fmt.Errorf("%s takes %d arguments besides flags, got %q; see --help", f.Name(), n, f.Args())
	}
	if err != nil {
		return usageError{err}
	}
	return nil
}

// load reads the settings; its errors are the user's to mend.
func (e *Env) load(path string) (config.Config, []string, error) {
	c, warnings, err := config.Load(path, e.Environ)
	if err != nil {
		return c, nil, usageError{err}
	}
	return c, warnings, nil
}

func version(_ context.Context, e *Env, args []string) error {
	if err := e.flags("version", "Prints the version.").parse(args, 0); err != nil {
		return err
	}
	_, err := fmt.Fprintln(e.Stdout, e.Version)
	return err
}

// readSecret reads a small file without its last line's end.
func readSecret(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	return trimEnd(string(text)), nil
}
