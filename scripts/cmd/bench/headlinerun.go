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

// Where the agent's data lies.
const (
	onDisk = "disk"
	onCard = "emulated card"
)

// warmUp is of the messages before the first that count.
const warmUp = 3 * time.Second

// place takes all figures with the agent's data in one place.
func (h *headlines) place(ctx context.Context, place string) (err error) {
	dir, err := os.MkdirTemp(h.folder, "run-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	o := stack.Options{Root: h.builder.Root, Dir: dir, Programs: h.programs}
	device := dir
	if place == onCard {
		device = filepath.Join(dir, "card")
		o.Volumes.Edge = device
		card, err := disk.Power(device, 1)
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
	h.screen.Event("%s: warming up", place)
	if err := h.latency(ctx, s, strings.ReplaceAll(place, " ", "-")+"-warm", warmUp, func(string, string, float64) {}); err != nil {
		return err
	}
	for n := range h.repeat {
		h.screen.Event("%s: measuring, %d of %d", place, n+1, h.repeat)
		record := func(what, unit string, v float64) { h.add(what+", "+place, unit, v) }
		if err := h.once(ctx, s, fmt.Sprintf("%s-%d", strings.ReplaceAll(place, " ", "-"), n), device, record); err != nil {
			return err
		}
	}
	return nil
}

// once takes each figure once; device is a folder on what holds the agent's data,
// whose flushes are timed before and after the latencies.
func (h *headlines) once(ctx context.Context, s *stack.Stack, name, device string, record recorder) error {
	flush, err := flushes(device)
	if err != nil {
		return err
	}
	slow := 0.0 // how long the slowest message in a hundred took to its PUBACK
	err = h.latency(ctx, s, name, h.length, func(what, unit string, v float64) {
		if what == "due → PUBACK p99" {
			slow = v
		}
		record(what, unit, v)
	})
	if err != nil {
		return err
	}
	more, err := flushes(device)
	if err != nil {
		return err
	}
	flush = append(flush, more...)
	record("flush p50", "ms", quantile(flush, 0.5))
	record("flush p99", "ms", quantile(flush, 0.99))
	record(inFlushes, "×", slow/quantile(flush, 0.99))
	record("due → PUBACK p99, in median flushes", "×", slow/quantile(flush, 0.5))
	return h.backlog(ctx, s, name+"-backlog", record)
}

// million lets a large backlog drain, on the disk, beside live readings.
func (h *headlines) million(ctx context.Context) error {
	if h.readings == 0 {
		return nil
	}
	o := uplinkOptions{readings: h.readings, live: 200}
	var r uplinkResult
	err := h.measured(ctx, func(ctx context.Context, s *stack.Stack) error {
		run := uplinkRun{uplinkOptions: o, stack: s, screen: h.screen, result: &r}
		return errors.Join(run.backlog(ctx), run.readBack(ctx))
	})
	if err != nil {
		return err
	}
	if r.Missing+r.Doubled+r.Altered > 0 {
		return fmt.Errorf("of the large backlog %d are missing, %d doubled, %d altered: its figures mean nothing", r.Missing, r.Doubled, r.Altered)
	}
	h.add(largeDrain, "×", float64(r.Drain.Readings)/h.rate/r.Drain.Seconds)
	h.add("large backlog, drained faster than it was put there", "×", r.Drain.Filled/r.Drain.Seconds)
	h.add("large backlog, from the healed network to the last receipt", "s", r.Drain.Seconds)
	h.add("large backlog, live readings meanwhile, due → database p99 of all", "ms", r.Live.P99)
	for _, u := range r.Drain.Programs {
		if strings.HasSuffix(u.Name, "agent") {
			h.add(agentMemory+" draining the large backlog", "MB", float64(u.AnonMax)/1e6)
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
func (h *headlines) latency(ctx context.Context, s *stack.Stack, prefix string, length time.Duration, record recorder) error {
	fleet, log := h.fleet(s, prefix, length)
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
	heard := live()
	for _, way := range []struct {
		to   string
		late *histogram.Histogram
	}{{"PUBACK", log.Latency()}, {"database", &toDB}, {"live listener", heard}} {
		record("due → "+way.to+" p50", "ms", quantilesOf(way.late).P50)
		record("due → "+way.to+" p99", "ms", quantilesOf(way.late).P99)
	}
	record("readings that the live listener saw", "%", 100*float64(heard.Count())/float64(toDB.Count()))
	for _, u := range samples.usage() {
		if u.Name == s.Edge.Agent.Name() {
			record(agentMemory, "MB", float64(u.AnonMax)/1e6)
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
