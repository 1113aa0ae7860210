package main

import (
	"fmt"
	"slices"
)

// bench is one run with what it found.
type bench struct {
	options
	work    string // a folder of its own
	program string // cloud-api
	figures []figure
}

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
}

// goal is what a figure is to reach; the zero goal is none.
type goal struct{ least, most float64 }

func (g goal) met(v float64) bool { return v >= g.least && (g.most == 0 || v <= g.most) }

func (g goal) String() string {
	switch {
	case g.least > 0:
		return fmt.Sprintf("≥ %.4g", g.least)
	case g.most > 0:
		return fmt.Sprintf("≤ %.4g", g.most)
	}
	return ""
}

// add prints a figure and keeps it.
func (b *bench) add(name string, rounds []float64, unit string, g goal) {
	s := slices.Sorted(slices.Values(rounds))
	f := figure{Name: name, Median: median(s), Low: s[0], High: s[len(s)-1], Rounds: len(s), Unit: unit, Goal: g.String()}
	mark := " "
	if f.Goal != "" {
		met := g.met(f.Median)
		if f.Met = &met; !met {
			mark = "!"
		}
	}
	b.figures = append(b.figures, f)
	fmt.Printf("%s %-62s %12.4g %-8s (%.4g to %.4g, %d) %s\n", mark, name, f.Median, unit, f.Low, f.High, f.Rounds, f.Goal)
}

// median takes sorted values.
func median(s []float64) float64 {
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
