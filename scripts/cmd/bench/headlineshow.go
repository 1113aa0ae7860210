package main

import (
	"errors"
	"fmt"
	"html"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/disk"
)

// described is what a figure depends on besides the program.
type described struct {
	Processor string    `json:"processor"`
	Memory    int64     `json:"memory_bytes"`
	Kernel    string    `json:"kernel"`
	Load      string    `json:"load_average"` // before: other work spoils figures
	Flush     []float64 `json:"fdatasync_ms"` // of the folder's disk: median and p99 of 200 writes of 4 KiB
	When      time.Time `json:"when"`
}

func describe(dir string) (described, error) {
	d := described{Processor: machine(), When: time.Now().UTC(), Kernel: runtime.GOOS, Load: "unknown"}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		d.Kernel += " " + strings.TrimSpace(string(b))
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		d.Load = strings.TrimSpace(string(b))
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		_, _ = fmt.Sscanf(string(b), "MemTotal: %d kB", &d.Memory) // stays 0
		d.Memory <<= 10
	}
	all, err := flushes(dir)
	if err == nil {
		d.Flush = []float64{quantile(all, 0.5), quantile(all, 0.99)}
	}
	return d, err
}

// flushes times what every commit waits for: bytes written over that are there
// already, and synced, so that nothing but them has to go to the device.
// It returns milliseconds.
func flushes(dir string) (all []float64, err error) {
	f, err := os.Create(filepath.Join(dir, "flush"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	block := make([]byte, 4096)
	for n := range 201 {
		block[0] = byte(n)
		begin := time.Now()
		if _, err := f.WriteAt(block, 0); err != nil {
			return nil, err
		}
		if err := disk.Sync(f); err != nil {
			return nil, err
		}
		if n > 0 { // the first one makes the file
			all = append(all, float64(time.Since(begin).Microseconds())/1000)
		}
	}
	return all, nil
}

func (h *headlines) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s, %s, %d MB; load before %s; flush p50 %.2f ms, p99 %.2f ms\ntrace %s at %.0f/s, %d times\n\n  %-66s %10s %10s %10s\n",
		h.Machine.Processor, h.Machine.Kernel, h.Machine.Memory>>20, h.Machine.Load, h.Machine.Flush[0], h.Machine.Flush[1],
		h.trace, h.rate, h.repeat, "", "median", "least", "most")
	for _, f := range h.Figures {
		fmt.Fprintf(&b, "  %-66s %10.1f %10.1f %10.1f %-3s %s\n", f.Name, f.Median, f.Min, f.Max, f.Unit, f.word())
	}
	b.WriteString("\n")
	return b.String()
}

// word says how a figure stands to its goal.
func (f *figure) word() string {
	switch {
	case f.Goal == "":
		return ""
	case f.Met:
		return f.Goal + ": met"
	}
	return f.Goal + ": MISSED"
}

// plot draws a bar for each median, with a whisker from the least to the most.
// Bars of one unit have one scale.
func (h *headlines) plot() string {
	const row, left, width = 22, 430, 420
	most := map[string]float64{}
	for _, f := range h.Figures {
		most[f.Unit] = max(most[f.Unit], f.Max)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n",
		left+width+230, row*(len(h.Figures)+3))
	b.WriteString(`<rect width="100%" height="100%" fill="white"/>` + "\n")
	fmt.Fprintf(&b, `<text x="8" y="16" font-size="13">%s</text>`+"\n", html.EscapeString(h.Machine.Processor))
	fmt.Fprintf(&b, `<text x="8" y="34" fill="#555">%s</text>`+"\n", html.EscapeString(fmt.Sprintf(
		"trace %s at %.0f messages/s, median of %d, whiskers from least to most; %s", h.trace, h.rate, h.repeat, h.Machine.When.Format("2006-01-02"))))
	for i, f := range h.Figures {
		y := row * (i + 2)
		scale := width / max(most[f.Unit], 1e-9)
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, left-8, y+15, html.EscapeString(f.Name))
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="12" fill="#4878a8"/>`, left, y+5, f.Median*scale)
		fmt.Fprintf(&b, `<path d="M%.1f %dh%.1f" stroke="#222"/>`, left+f.Min*scale, y+11, (f.Max-f.Min)*scale)
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" fill="%s">%.1f %s %s</text>`+"\n", left+f.Max*scale+6, y+15, f.colour(), f.Median,
			html.EscapeString(f.Unit), html.EscapeString(f.word()))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// colour is that of a figure's value.
func (f *figure) colour() string {
	if f.Met {
		return "#222"
	}
	return "#b02a2a"
}

// quantile returns the value below which that part of all lies.
func quantile(all []float64, part float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(int(part*float64(len(sorted))), len(sorted)-1)]
}
