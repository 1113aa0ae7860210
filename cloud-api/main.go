// Command cloud-api takes the frames of edge agents into a database, answers
// them with signed receipts, and shows what it holds.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/api"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/config"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/enrol"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/format"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/server"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// version is set by the linker: -X main.version=1.2.3.
var version string

const usage = `usage: cloud-api COMMAND [--config FILE] …

  run                    serve until a signal
  check                  validate the configuration and exit
  migrate                bring the database's schema up to date and exit
  token create           make an enrolment token and print it
    --agent NAME         the only agent it is for
    --prefix P           agents whose id begins with P
    --uses N             how many devices it enrols (default 1)
    --ttl 1h             until it expires (default 1h)
  agent revoke NAME      take nothing more from an agent; it keeps its readings and is told
  agent allow NAME       take a revoked agent back; a new token does so too
  keys list              show the root, the roots before it and the receipt keys
  keys renew             make a new receipt key; a running server uses it within seconds
  keys rotate-root       replace the root; devices go on trusting this cloud
  access create NAME     make an access token and print it; the line for public.access.tokens_file goes to standard error
    --role read|admin    what it may do (default read)
    --agents a,pi-*      the agents it may see (default all)
  export                 write readings to standard output
    --format F           ndjson, csv or parquet (default ndjson)
    --agent, --topic     only these; the topic may have + and #
    --from, --to         corrected times such as 2026-05-04T10:00:00Z
  version                print the version
`

// The exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

// errUsage is returned for a command line or a configuration that is wrong.
var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills at once
	err := command(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitUsage)
	default:
		fmt.Fprintln(os.Stderr, "cloud-api:", err)
		os.Exit(exitFailed)
	}
}

// command runs one command line.
func command(ctx context.Context, args, environ []string, out, errOut io.Writer) error {
	if len(args) == 0 {
		return fmt.Errorf("%w\n%s", errUsage, usage)
	}
	name, rest := args[0], args[1:]
	switch name {
	case "run":
		return withConfig(name, rest, environ, errOut, nil, func(c config.Config, log *slog.Logger) error { return run(ctx, c, log) })
	case "check":
		return withConfig(name, rest, environ, errOut, nil, func(config.Config, *slog.Logger) error {
			_, err := fmt.Fprintln(out, "the configuration is valid")
			return err
		})
	case "migrate":
		return withConfig(name, rest, environ, errOut, nil, func(c config.Config, log *slog.Logger) error { return migrate(ctx, c, log, out) })
	case "token":
		return token(ctx, rest, environ, out, errOut)
	case "agent":
		return agent(ctx, rest, environ, out, errOut)
	case "keys":
		return keysCommand(rest, environ, out, errOut)
	case "export":
		return export(ctx, rest, environ, out, errOut)
	case "access":
		return access(rest, out, errOut)
	case "version", "--version", "-version":
		_, err := fmt.Fprintln(out, "cloud-api", versionText())
		return err
	case "help", "--help", "-h":
		_, err := fmt.Fprint(out, usage)
		return err
	}
	return fmt.Errorf("%w: unknown command %q\n%s", errUsage, name, usage)
}

// withConfig parses the flags, reads the configuration and calls f.
func withConfig(name string, args, environ []string, errOut io.Writer, more func(*flag.FlagSet), f func(config.Config, *slog.Logger) error) error {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(errOut)
	file := fs.String("config", "", "the configuration `FILE`")
	if more != nil {
		more(fs)
	}
	if err := fs.Parse(args); err != nil {
		return errors.Join(errUsage, err)
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("%w: unexpected argument %q", errUsage, fs.Arg(0))
	}
	c, warnings, err := config.Load(*file, environ)
	if err != nil {
		return errors.Join(errUsage, err)
	}
	log := logger(c.Log, errOut)
	for _, w := range warnings {
		log.Warn("config: setting ignored", "reason", w)
	}
	return f(c, log)
}

func logger(c config.Log, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		panic("BUG: log level was validated: " + err.Error())
	}
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "text" {
		return slog.New(slog.NewTextHandler(w, o))
	}
	return slog.New(slog.NewJSONHandler(w, o))
}

func run(ctx context.Context, c config.Config, log *slog.Logger) error {
	s, err := server.Open(ctx, c, versionText(), log)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// migrate opens the database, which brings its schema up to date.
func migrate(ctx context.Context, c config.Config, log *slog.Logger, out io.Writer) error {
	st, err := server.OpenStore(ctx, c.Store, log)
	if err != nil {
		return err
	}
	if err := st.Close(); err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, "the schema is up to date")
	return err
}

func token(ctx context.Context, args, environ []string, out, errOut io.Writer) error {
	if len(args) == 0 || args[0] != "create" {
		return fmt.Errorf("%w: cloud-api token create [--agent NAME] [--ttl 1h] [--uses N --prefix P]", errUsage)
	}
	var g enrol.Grant
	flags := func(fs *flag.FlagSet) {
		fs.StringVar(&g.Agent, "agent", "", "the only agent it is for")
		fs.StringVar(&g.Prefix, "prefix", "", "agents whose id begins with this")
		fs.IntVar(&g.Uses, "uses", 1, "how many devices it enrols")
		fs.DurationVar(&g.TTL, "ttl", time.Hour, "until it expires")
	}
	return withConfig("token create", args[1:], environ, errOut, flags, func(c config.Config, log *slog.Logger) error {
		if err := checkGrant(g); err != nil {
			return err
		}
		text, err := server.CreateToken(ctx, c, g, log)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(out, text)
		return err
	})
}

// agent shuts an agent out or takes it back, in the database of a server that may
// be running.
func agent(ctx context.Context, args, environ []string, out, errOut io.Writer) error {
	if len(args) < 2 || args[0] != "revoke" && args[0] != "allow" || telemetry.ValidateAgent(args[1]) != nil {
		return fmt.Errorf("%w: cloud-api agent revoke|allow NAME", errUsage)
	}
	name, at, said := args[1], time.Now().UTC(), "nothing more is taken from %s; it hears so with its next frame, keeps its readings and asks once a minute\n"
	if args[0] == "allow" {
		at, said = time.Time{}, "%s is allowed again; it goes on within a minute\n"
	}
	return withConfig("agent "+args[0], args[2:], environ, errOut, nil, func(c config.Config, log *slog.Logger) error {
		if err := server.Revoke(ctx, c, name, at, log); err != nil {
			return err
		}
		_, err := fmt.Fprintf(out, said, name)
		return err
	})
}

func checkGrant(g enrol.Grant) error {
	switch {
	case g.Agent != "" && g.Prefix != "":
		return fmt.Errorf("%w: --agent and --prefix exclude each other", errUsage)
	case g.Agent != "" && telemetry.ValidateAgent(g.Agent) != nil:
		return fmt.Errorf("%w: --agent = %q: want 1 to 63 of a-z, 0-9 and -", errUsage, g.Agent)
	case g.Prefix != "" && telemetry.ValidateAgent(g.Prefix) != nil:
		return fmt.Errorf("%w: --prefix = %q: want 1 to 63 of a-z, 0-9 and -", errUsage, g.Prefix)
	case g.Uses < 1 || g.Uses > 1 && g.Agent != "":
		return fmt.Errorf("%w: --uses = %d: want 1, or more for a fleet without --agent", errUsage, g.Uses)
	case g.TTL <= 0:
		return fmt.Errorf("%w: --ttl = %s: want more than 0", errUsage, g.TTL)
	}
	return nil
}

func export(ctx context.Context, args, environ []string, out, errOut io.Writer) error {
	var q store.Query
	var kind, from, to string
	flags := func(fs *flag.FlagSet) {
		fs.StringVar(&kind, "format", "ndjson", "ndjson, csv or parquet")
		fs.StringVar(&q.Agent, "agent", "", "only this agent")
		fs.StringVar(&q.Topic, "topic", "", "only topics that match this filter")
		fs.StringVar(&from, "from", "", "corrected time, inclusive")
		fs.StringVar(&to, "to", "", "corrected time, exclusive")
	}
	return withConfig("export", args, environ, errOut, flags, func(c config.Config, log *slog.Logger) error {
		var err error
		if q.From, err = instant("from", from); err != nil {
			return err
		}
		if q.To, err = instant("to", to); err != nil {
			return err
		}
		switch {
		case format.Names[kind] == "":
			return fmt.Errorf("%w: --format = %q: want ndjson, csv or parquet", errUsage, kind)
		case q.Topic != "" && !store.ValidFilter(q.Topic):
			return fmt.Errorf("%w: --topic = %q: want an MQTT topic filter", errUsage, q.Topic)
		}
		n, err := server.Export(ctx, c, q, format.Names[kind], out, log)
		if err == nil {
			log.Info("export: done", "readings", n)
		}
		return err
	})
}

func instant(name, s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return 0, fmt.Errorf("%w: --%s = %q: want a time such as 2026-05-04T10:00:00Z", errUsage, name, s)
	}
	return t.UnixNano(), nil
}

// access makes an access token. Only its hash is to be kept.
func access(args []string, out, errOut io.Writer) error {
	if len(args) < 2 || args[0] != "create" {
		return fmt.Errorf("%w: cloud-api access create NAME [--role read|admin] [--agents a,pi-*]", errUsage)
	}
	fs := flag.NewFlagSet("access create", flag.ContinueOnError)
	fs.SetOutput(errOut)
	role := fs.String("role", "read", "read or admin")
	agents := fs.String("agents", "", "the agents it may see")
	if err := fs.Parse(args[2:]); err != nil {
		return errors.Join(errUsage, err)
	}
	c := api.Caller{Name: args[1], Role: api.Reader}
	switch *role {
	case "read":
	case "admin":
		c.Role = api.Admin
	default:
		return fmt.Errorf("%w: --role = %q: want read or admin", errUsage, *role)
	}
	if *agents != "" {
		c.Agents = strings.Split(*agents, ",")
	}
	text, line, err := api.NewToken(c)
	if err != nil {
		return fmt.Errorf("%w: name %q, --agents = %q: want a name of A-Z a-z 0-9 . _ -, and agent ids or beginnings with a *", errUsage, c.Name, *agents)
	}
	if _, err := fmt.Fprintf(errOut, "line for public.access.tokens_file:\n%s\n", line); err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, text)
	return err
}

func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
