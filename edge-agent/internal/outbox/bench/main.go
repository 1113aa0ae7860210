// Command bench measures the outbox: against hashicorp/raft-wal and against bbolt
// as it comes, in one run, since only ratios of one run mean anything. It is a
// module of its own, so that the agent does not carry what it is measured against.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"time"
)

const help = `Usage: ./scripts/bench outbox [flags]

Measures the outbox beside hashicorp/raft-wal and plain bbolt. Each part needs the
machine to itself; parts that need root and a loop device say so when they have none.

  append   records a second in batches of 64 and 1 024 beside raft-wal, and beside
           two fdatasyncs of as many bytes with no database at all; 64 producers
           beside a commit a message
  commit   what one commit of 64 records takes, beside what it is made of
  device   bytes written to the device a byte of payload, also by default bbolt
  drain    what a backlog of --records, drained, leaves behind
  open     opening with --queue bytes queued and nothing in memory
  memory   what draining --queue bytes takes, and how fast it is in 64 MiB

Flags:
  --dir FOLDER   measure the disk of this folder, which needs about 6 GB (default: the
                 temporary folder). On a loop device its statistics are read; else a
                 file system is made in a file there for what needs them
  --only LIST    parts, separated by commas (default: all)
  --rounds N     rounds that alternate between two sides (default 7): the median counts
  --for DURATION length of a round (default 1s)
  --records N    records to fill with before draining (default 2000000)
  --queue BYTES  payload queued before opening (default 2147483648)
  --json         print one JSON object, and the table on standard error
  --profile FILE write a CPU profile of this process
`

// bench is a run: where it writes, how long it takes, what it found.
type bench struct {
	dir     string
	rounds  int
	length  time.Duration
	records int   // for draining
	queue   int64 // bytes, for opening
	out     io.Writer
	screen  progress
	figures []figure
}

var parts = []struct {
	name string
	run  func(*bench) error
}{
	{"append", (*bench).append},
	{"commit", (*bench).commit},
	{"device", (*bench).device},
	{"drain", (*bench).drain},
	{"open", (*bench).open},
	{"memory", (*bench).memory},
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == drainCommand {
		exit(drainChild(os.Args[2]))
		return
	}
	exit(run(os.Args[1:]))
}

func exit(err error) {
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) (err error) {
	b := &bench{out: os.Stdout, screen: newProgress(os.Stderr)}
	f := flag.NewFlagSet("bench outbox", flag.ContinueOnError)
	f.Usage = func() { fmt.Fprint(os.Stderr, help) }
	asJSON := f.Bool("json", false, "")
	dir := f.String("dir", os.TempDir(), "")
	only := f.String("only", "", "")
	profile := f.String("profile", "", "")
	f.IntVar(&b.rounds, "rounds", 7, "")
	f.DurationVar(&b.length, "for", time.Second, "")
	f.IntVar(&b.records, "records", 2_000_000, "")
	f.Int64Var(&b.queue, "queue", 2<<30, "")
	if err := f.Parse(args); err != nil {
		return err
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	if b.rounds < 1 || b.length <= 0 || b.records < 1 || b.queue < payload {
		return errors.New("--rounds, --for, --records and --queue must be positive")
	}
	if *asJSON {
		b.out = os.Stderr
	}
	if b.dir, err = os.MkdirTemp(*dir, "outbox-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if *profile != "" {
		p, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer p.Close()
		if err := pprof.StartCPUProfile(p); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	where := describe(b.dir)
	fmt.Fprintln(b.out, where)
	for i, part := range parts {
		if !chosen[i] {
			continue
		}
		if err := part.run(b); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	if *asJSON {
		return b.printJSON(os.Stdout, where)
	}
	return nil
}

// choose says which parts a list names; an empty one names all.
func choose(list string) ([]bool, error) {
	chosen := make([]bool, len(parts))
	for i := range chosen {
		chosen[i] = list == ""
	}
	if list == "" {
		return chosen, nil
	}
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(parts, func(p struct {
			name string
			run  func(*bench) error
		},
		) bool {
			return p.name == name
		})
		if i < 0 {
			return nil, fmt.Errorf("--only: %q is no part; see --help", name)
		}
		chosen[i] = true
	}
	return chosen, nil
}

// fresh returns an empty folder.
func (b *bench) fresh(name string) (string, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o700)
}
