// Command bench measures the outbox: against hashicorp/raft-wal and against bbolt
// as it comes, in one run, since only ratios of one run mean anything. It is a
// module of its own, so that the agent does not carry what it is measured against.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// figure is one result.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Want  string  `json:"want,omitempty"`
	OK    bool    `json:"ok"`
	Note  string  `json:"note,omitempty"`
}

// bench is a run: where it writes, how long it takes, what it found.
type bench struct {
	dir     string
	rounds  int
	length  time.Duration
	records int   // for draining
	queue   int64 // bytes, for opening
	out     io.Writer
	figures []figure
}

func (b *bench) add(name string, value float64, unit, want string, ok bool, note string) {
	f := figure{name, value, unit, want, ok, note}
	b.figures = append(b.figures, f)
	mark := "  "
	if !ok {
		mark = "! "
	}
	fmt.Fprintf(b.out, "%s%-58s %12.3f %-10s %-10s %s\n", mark, name, value, unit, want, note)
}

var all = []struct {
	name string
	run  func(*bench) error
}{
	{"append", (*bench).append},
	{"device", (*bench).device},
	{"drain", (*bench).drain},
	{"open", (*bench).open},
	{"memory", (*bench).memory},
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "drain-child" {
		if err := drainChild(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	err := run(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) (err error) {
	b := &bench{out: os.Stdout}
	f := flag.NewFlagSet("bench outbox", flag.ContinueOnError)
	asJSON := f.Bool("json", false, "print one JSON object at the end, and the table on standard error")
	dir := f.String("dir", os.TempDir(), "folder to measure in: its disk is what is measured; needs about 6 GB")
	only := f.String("only", "", "comma-separated: append, device, drain, open, memory; all when empty")
	f.IntVar(&b.rounds, "rounds", 7, "rounds that alternate between the two sides; their median counts")
	f.DurationVar(&b.length, "for", time.Second, "length of a round")
	f.IntVar(&b.records, "records", 2_000_000, "records to fill with before draining")
	f.Int64Var(&b.queue, "queue", 2<<30, "bytes queued before opening")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *asJSON {
		b.out = os.Stderr
	}
	if b.dir, err = os.MkdirTemp(*dir, "outbox-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	for _, part := range all {
		if *only != "" && !strings.Contains(","+*only+",", ","+part.name+",") {
			continue
		}
		if err := part.run(b); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	if !*asJSON {
		return nil
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(map[string]any{
		"go": runtime.Version(), "arch": runtime.GOARCH, "cpus": runtime.NumCPU(), "load": load(),
		"at": time.Now().UTC().Format(time.RFC3339), "figures": b.figures,
	})
}

// load is the machine's load average of the last minute: figures taken on a busy
// machine say so.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	one, _, _ := strings.Cut(string(b), " ")
	return one
}

// fresh returns an empty folder.
func (b *bench) fresh(name string) (string, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o700)
}
