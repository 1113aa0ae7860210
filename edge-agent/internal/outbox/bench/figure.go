package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// figure is one result: the median of its rounds, and how far they spread.
type figure struct {
	Name   string  `json:"name"`
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	Rounds int     `json:"rounds"`
	Unit   string  `json:"unit"`
	Goal   string  `json:"goal,omitempty"`
	Met    *bool   `json:"met,omitempty"`
	Note   string  `json:"note,omitempty"`
}

// goal is what a figure is to reach.
type goal struct {
	least bool
	bound float64
}

func atLeast(v float64) *goal { return &goal{true, v} }
func atMost(v float64) *goal  { return &goal{false, v} }

func (g *goal) String() string {
	if g.least {
		return fmt.Sprintf("≥ %g", g.bound)
	}
	return fmt.Sprintf("≤ %g", g.bound)
}

// add prints a figure and keeps it. A nil goal is none.
func (b *bench) add(name string, rounds []float64, unit string, g *goal, note string) {
	s := slices.Sorted(slices.Values(rounds))
	f := figure{Name: name, Median: median(s), Low: s[0], High: s[len(s)-1], Rounds: len(s), Unit: unit, Note: note}
	mark := " "
	if g != nil {
		met := g.least == (f.Median >= g.bound) || f.Median == g.bound
		f.Goal, f.Met = g.String(), &met
		if !met {
			mark = "!"
		}
	}
	b.figures = append(b.figures, f)
	spread := ""
	if len(s) > 1 {
		spread = fmt.Sprintf("(%.3g to %.3g)", f.Low, f.High)
	}
	b.screen.clear()
	fmt.Fprintf(b.out, "%s %-62s %10.3f %-9s %-22s %-7s %s\n", mark, name, f.Median, unit, spread, f.Goal, note)
}

// skip says that a figure was not taken, and why.
func (b *bench) skip(name, why string) {
	b.screen.clear()
	fmt.Fprintf(b.out, "  %-62s not measured: %s\n", name, why)
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

func (b *bench) printJSON(w io.Writer, where string) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(map[string]any{
		"machine": where, "load": load(), "at": time.Now().UTC().Format(time.RFC3339),
		"options": map[string]any{"rounds": b.rounds, "for": b.length.String(), "records": b.records, "queue": b.queue},
		"figures": b.figures,
	})
}

// describe is the machine and the file system that figures were taken on.
func describe(dir string) string {
	model := "unknown processor"
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		for s := bufio.NewScanner(f); s.Scan(); {
			if key, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
		_ = f.Close() // only read
	}
	kind := "unknown file system"
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) == nil {
		names := map[int64]string{unix.EXT4_SUPER_MAGIC: "ext4", unix.TMPFS_MAGIC: "tmpfs (no disk!)", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.F2FS_SUPER_MAGIC: "f2fs"}
		if kind = names[int64(fs.Type)]; kind == "" { //nolint:unconvert // its type differs by processor
			kind = fmt.Sprintf("file system %#x", fs.Type)
		}
	}
	return fmt.Sprintf("%s, %d cores, linux/%s, %s, %s, load %s", model, runtime.NumCPU(), runtime.GOARCH, runtime.Version(), kind, load())
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

// progress says what is going on: on a terminal in a line that is written over,
// else in lines of their own.
type progress struct {
	w   *os.File
	tty bool
}

func newProgress(w *os.File) progress {
	_, err := unix.IoctlGetTermios(int(w.Fd()), unix.TCGETS)
	return progress{w, err == nil}
}

func (p progress) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if p.tty {
		fmt.Fprintf(p.w, "\r\x1b[K%s", text)
		return
	}
	fmt.Fprintln(p.w, "…", text)
}

func (p progress) clear() {
	if p.tty {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
