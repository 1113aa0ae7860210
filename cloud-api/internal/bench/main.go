// Command bench measures the cloud as it is run: the real program over HTTP, on
// SQLite and on PostgreSQL, beside plain COPY of the same rows into the same
// server. Every figure it prints was taken in the run that prints it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

const help = `Usage: ./scripts/bench cloud [flags]

Starts cloud-api with SQLite and with a PostgreSQL server of its own (Debian:
postgresql), hands it frames as its sidecar does, and measures ingest, replay,
memory, a flood of bad events, a chart and the dashboard. The generator of the load runs on the same cores.

Flags:
  --only LIST      of sqlite, postgres, flood, series, page (default: all)
  --rounds N       rounds of each figure of ingest; the median counts (default 3)
  --rows N         readings of a round (default 400000)
  --values N       readings that a chart looks among (default 10000000: minutes)
  --cores N        bind everything to the first N processors (default 2; 0: all)
  --dir FOLDER     where the data lies: the disk that is measured (default: the
                   system's temporary folder)
  --json           print the result as one JSON object on the last line too
`

// parts are what can be measured by itself.
var parts = []string{"sqlite", "postgres", "flood", "series", "page"}

type options struct {
	only                        []string
	rounds, rows, values, cores int
	dir                         string
	json                        bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench cloud:", err)
		os.Exit(1)
	}
}

func parse(args []string) (o options, err error) {
	fs := flag.NewFlagSet("bench cloud", flag.ContinueOnError)
	only := fs.String("only", strings.Join(parts, ","), "")
	fs.IntVar(&o.rounds, "rounds", 3, "")
	fs.IntVar(&o.rows, "rows", 400_000, "")
	fs.IntVar(&o.values, "values", 10_000_000, "")
	fs.IntVar(&o.cores, "cores", 2, "")
	fs.StringVar(&o.dir, "dir", os.TempDir(), "")
	fs.BoolVar(&o.json, "json", false, "")
	fs.Usage = func() { fmt.Fprint(os.Stderr, help) }
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	o.only = strings.Split(*only, ",")
	for _, name := range o.only {
		if !slices.Contains(parts, name) {
			return o, fmt.Errorf("--only = %q: want some of %s", *only, strings.Join(parts, ", "))
		}
	}
	if o.rounds < 1 || o.rows < frameRows*8 || o.values < 100_000 {
		return o, fmt.Errorf("want --rounds of 1 or more, --rows of %d, --values of 100000", frameRows*8)
	}
	return o, nil
}

func run(ctx context.Context, args []string) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if err := bind(o.cores); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.dir, "bench-cloud-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &bench{options: o, work: dir, program: filepath.Join(dir, "cloud-api")}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", b.program, ".")
	build.Env, build.Stderr = append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build cloud-api: %w", err)
	}
	fmt.Printf("%s\n\n", machine())
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{{"sqlite", b.sqlite}, {"postgres", b.postgres}, {"flood", b.flood}, {"series", b.series}, {"page", b.page}} {
		if !slices.Contains(o.only, part.name) {
			continue
		}
		if err := part.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	if o.json {
		line, err := json.Marshal(map[string]any{"machine": machine(), "rows": o.rows, "values": o.values, "figures": b.figures})
		if err != nil {
			return err
		}
		fmt.Println(string(line))
	}
	return nil
}

// bind becomes the same program on the first n processors; what it starts
// inherits them.
func bind(n int) error {
	if n == 0 || runtime.NumCPU() <= n {
		return nil
	}
	taskset, err := exec.LookPath("taskset")
	if err != nil {
		return errors.New("--cores needs the program taskset (Debian: util-linux); --cores 0 uses all processors")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return fmt.Errorf("taskset: %w", syscall.Exec(taskset, append([]string{taskset, "-c", fmt.Sprintf("0-%d", n-1), self}, os.Args[1:]...), os.Environ()))
}

func machine() string {
	model := "unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%s, %d cores, %s/%s, %s", model, runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
}
