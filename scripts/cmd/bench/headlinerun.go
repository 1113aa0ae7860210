package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/cloud"
	"github.com/holdfast-edge/holdfast/scripts/internal/disk"
	"github.com/holdfast-edge/holdfast/scripts/internal/histogram"
	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
	"github.com/holdfast-edge/holdfast/scripts/internal/sensors"
	"github.com/holdfast-edge/holdfast/scripts/internal/stack"
)

// place takes all figures with the agent's data in one place.
func (h *headlines) place(ctx context.Context, place string) (err error) {
	dir, err := emptyFolder(h.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	o := stack.Options{Root: h.root, Dir: dir, Programs: h.programs}
	if place != "disk" {
		o.Volumes.Edge = filepath.Join(dir, "card")
		card, err := disk.Power(o.Volumes.Edge, 1)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, card.Close()) }()
		card.Flush(h.flush)
	}
	s, err := stack.Start(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	for n := range h.repeat + 1 {
		record := h.add
		if n == 0 {
			h.screen.Event("%s: warming up", place)
			record = func(string, string, float64) {}
		} else {
			h.screen.Event("%s: measuring, %d of %d", place, n, h.repeat)
		}
		name := fmt.Sprintf("%s-%d", strings.ReplaceAll(place, " ", "-"), n)
		if err := h.latency(ctx, s, name, func(what, unit string, v float64) { record(what+", "+place, unit, v) }); err != nil {
			return err
		}
		if err := h.backlog(ctx, s, name+"-backlog", func(what, unit string, v float64) { record(what+", "+place, unit, v) }); err != nil {
			return err
		}
	}
	return nil
}

type recorder func(what, unit string, value float64)

const headlineSensors = 20

func (h *headlines) fleet(s *stack.Stack, prefix string, length time.Duration) (*sensors.Fleet, *oracle.Oracle) {
	shape := sensors.Shape{Prefix: prefix, Seed: 1, Size: traces[h.trace]}
	log := oracle.New(shape, headlineSensors)
	return &sensors.Fleet{Shape: shape, Addr: s.Edge.MQTT, Sensors: headlineSensors, Rate: h.rate, For: length, Log: log}, log
}

// latency publishes on schedule while nothing happens.
func (h *headlines) latency(ctx context.Context, s *stack.Stack, prefix string, record recorder) error {
	fleet, log := h.fleet(s, prefix, h.length)
	listening, hangUp := context.WithCancel(ctx)
	defer hangUp()
	live, err := listen(listening, s.Cloud.URL, s.Edge.ID, fleet)
	if err != nil {
		return err
	}
	samples := newSampler(s.Processes())
	sampling, stop := context.WithCancel(ctx)
	defer stop()
	go samples.run(sampling)
	if err := fleet.Run(ctx, nil); err != nil {
		return err
	}
	if err := s.Settle(ctx, 0, time.Minute); err != nil {
		return err
	}
	stop()
	var toDB histogram.Histogram
	if err := h.readBack(ctx, s, fleet, log, &toDB); err != nil {
		return err
	}
	hangUp()
	for name, hist := range map[string]*histogram.Histogram{"PUBACK": log.Latency(), "database": &toDB, "live listener": live()} {
		record("due → "+name+" p50", "ms", quantilesOf(hist).P50)
		record("due → "+name+" p99", "ms", quantilesOf(hist).P99)
	}
	for _, u := range samples.usage() {
		if u.Name == "edge-agent" {
			record("agent RssAnon", "MB", float64(u.AnonMax)/1e6)
		}
	}
	return nil
}

// readBack fails when a figure would be one of a run that lost something.
func (h *headlines) readBack(ctx context.Context, s *stack.Stack, fleet *sensors.Fleet, log *oracle.Oracle, toDB *histogram.Histogram) error {
	check := log.Check()
	err := s.Client().Readings(ctx, s.Edge.ID, func(r cloud.Reading) error {
		payload, _ := r.Bytes() // check.Add reports it
		if sensor, number, ours, valid := fleet.Recognise(r.Topic, payload); ours && valid && toDB != nil {
			toDB.Add(r.ReceivedAt.Sub(fleet.Due(sensor, number))) // both clocks are this machine's
		}
		return check.Add(r)
	})
	if err != nil {
		return err
	}
	if f := check.Findings(); f.Missing+f.Duplicates+f.Altered > 0 {
		return fmt.Errorf("the run lost, doubled or altered something: its figures mean nothing\n%s", strings.Join(f.Examples, "\n"))
	}
	return nil
}

// listen follows /v1/live as a dashboard does, and returns what tells how late
// readings came.
func listen(ctx context.Context, url, agent string, fleet *sensors.Fleet) (func() *histogram.Histogram, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/live?agent="+agent, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("listen to live readings: %w", err)
	}
	var mu sync.Mutex
	var late histogram.Histogram
	go func() {
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			data, ok := strings.CutPrefix(lines.Text(), "data:")
			var r cloud.Reading
			if !ok || json.Unmarshal([]byte(data), &r) != nil {
				continue
			}
			payload, _ := r.Bytes() // not ours, then
			if sensor, number, ours, valid := fleet.Recognise(r.Topic, payload); ours && valid {
				mu.Lock()
				late.Add(time.Since(fleet.Due(sensor, number)))
				mu.Unlock()
			}
		}
	}()
	return func() *histogram.Histogram {
		mu.Lock()
		defer mu.Unlock()
		copied := late
		return &copied
	}, nil
}

// backlog cuts the network while sensors publish, kills the agent over it, heals
// the network and waits until it is sent.
func (h *headlines) backlog(ctx context.Context, s *stack.Stack, prefix string, record recorder) error {
	fleet, log := h.fleet(s, prefix, h.outage)
	if err := s.Edge.Link.Cut(); err != nil {
		return err
	}
	if err := fleet.Run(ctx, nil); err != nil {
		return err
	}
	if err := s.Edge.Agent.Kill(); err != nil {
		return err
	}
	begin := time.Now()
	if err := s.Edge.Agent.Start(); err != nil {
		return err
	}
	if err := s.AgentReady(ctx); err != nil {
		return err
	}
	record("agent ready after SIGKILL", "ms", float64(time.Since(begin).Microseconds())/1000)
	healed := time.Now()
	if err := s.Edge.Link.Heal(); err != nil {
		return err
	}
	if err := s.Settle(ctx, 0, time.Minute+h.outage); err != nil {
		return err
	}
	took := time.Since(healed)
	record("backlog drained faster than it arrived", "×", h.outage.Seconds()/took.Seconds())
	record("backlog drained", "/s", float64(log.Totals().Acknowledged)/took.Seconds())
	return h.readBack(ctx, s, fleet, log, nil)
}
