package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// A figure is the median of what was taken, each goal is judged by it, and one that is missed fails the run by its name.
func TestGoalsAreJudgedByTheMedian(t *testing.T) {
	h := headlines{headlineOptions: headlineOptions{trace: "sensor", rate: 1000, repeat: 3}}
	h.Machine.Flush = []float64{1, 2}
	for _, v := range []float64{9, 2, 4} {
		h.add(inFlushes+", disk", "×", v)
		h.add(toDatabase+", disk", "ms", 100*v)
		h.add(largeDrain, "×", 5*v)
		h.add("due → PUBACK p50, disk", "ms", v)
	}
	if err := h.verdict(); err != nil {
		t.Fatalf("4 flushes, 400 ms and 20 times: %v", err)
	}
	h.add(inFlushes+", emulated card", "×", 4.1)
	for range 3 {
		h.add(largeDrain, "×", 1)
	}
	err := h.verdict()
	if err == nil || !strings.Contains(err.Error(), "emulated card is 4.1") || !strings.Contains(err.Error(), "large backlog") || strings.Contains(err.Error(), "disk is") {
		t.Fatalf("%v", err)
	}
	if table := h.table(); !strings.Contains(table, "at most 4: MISSED") || !strings.Contains(table, "at most 4: met") {
		t.Errorf("%s", table)
	}
}

// The plot is well-formed, whatever characters names have, and has a bar for each figure.
func TestPlotIsXML(t *testing.T) {
	h := headlines{headlineOptions: headlineOptions{trace: "sensor"}}
	h.Machine.When, h.Machine.Processor = time.Now(), "AMD <EPYC> & others"
	h.add("due → PUBACK p50, disk", "ms", 1.5)
	h.add(largeDrain, "×", 3)
	svg := h.plot()
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, svg)
		}
	}
	if n := strings.Count(svg, "#4878a8"); n != 2 {
		t.Errorf("%d bars", n)
	}
}

// What cannot be measured is refused with what can.
func TestHeadlineFlags(t *testing.T) {
	for args, word := range map[string]string{
		"--trace lead":   "want sensor, weather or machine",
		"--repeat 0":     "--repeat from 1",
		"--readings 10":  "--readings 0 or from",
		"--outage 100ms": "--outage from 2s",
	} {
		if _, err := parseHeadline(strings.Fields(args)); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v", args, err)
		}
	}
}
