package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/cloud"
	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
	"github.com/holdfast-edge/holdfast/scripts/internal/sensors"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

// test is one run on one cluster.
type test struct {
	options

	root   string // of the repository
	work   string // for overlays
	screen *term.Screen

	agent       string // its id: the node's name
	nodeAddress string
	access      string // token for the cloud's API
	password    string // of the sensors
	users       object // the Secret with the sensors' user
	relay       *relay
}

// result is one line of the table.
type result struct {
	name    string
	verdict oracle.Verdict
	worst   time.Duration // the longest that a message waited for its PUBACK
	note    string
	skipped string
	err     error
}

// run returns how many cases failed.
func (t *test) run(ctx context.Context) (failed int, err error) {
	if t.work, err = os.MkdirTemp("", "holdfast-kubernetes-"); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(t.work)) }()
	if err := t.preflight(ctx); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, t.remove(context.WithoutCancel(ctx))) }()
	if err := t.deploy(ctx); err != nil {
		return 0, err
	}
	if t.relay, err = newRelay(t.mqttAddresses); err != nil {
		return 0, err
	}
	relayCtx, stop := context.WithCancel(ctx)
	defer stop()
	go t.relay.run(relayCtx)

	var results []result
	for _, c := range cases() {
		if len(t.only) > 0 && !slices.Contains(t.only, c.name) {
			continue
		}
		r := t.one(ctx, c)
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		t.screen.Event("%s", r.line())
		results = append(results, r)
	}
	return t.report(results), nil
}

// one plays a case under load of its own and judges it.
func (t *test) one(ctx context.Context, c testCase) (r result) {
	r.name = c.name
	if why := c.missing(t.options); why != "" {
		r.skipped = why
		return r
	}
	t.screen.Event("%s: %s", c.name, c.about)
	shape := sensors.Shape{Prefix: fmt.Sprintf("test/%s", c.name), Seed: rand.Uint64()}
	book := oracle.New(shape, t.sensors)
	fleet := &sensors.Fleet{
		Shape: shape, Addr: t.relay.address(), Username: mqttUser, Password: t.password,
		Sensors: t.sensors, Rate: t.rate, Window: 1000, Log: book,
	}
	stop, done := make(chan struct{}), make(chan error, 1)
	loadCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	begin := time.Now()
	go func() { done <- fleet.Run(loadCtx, stop) }()
	pause(ctx, lead)
	note, err := c.play(ctx, t)
	r.note, r.err = note, err
	healed := time.Now()
	pause(ctx, lead)
	close(stop)
	r.verdict.Expected = uint64(t.rate * time.Since(begin).Seconds())
	select {
	case err := <-done:
		r.err = errors.Join(r.err, err)
	case <-time.After(settleLimit):
		cancel()
		r.err = errors.Join(r.err, errors.New("sensors still wait for acknowledgements"))
	}
	r.err = errors.Join(r.err, t.judge(ctx, book, &r.verdict, healed))
	r.worst = book.Latency().Max()
	return r
}

const (
	lead        = 5 * time.Second // of undisturbed load before and after a fault
	settleLimit = 5 * time.Minute // for the backlog of a fault
)

// judge waits until the cloud knows of nothing left on the device, and reads everything back.
func (t *test) judge(ctx context.Context, book *oracle.Oracle, v *oracle.Verdict, healed time.Time) error {
	v.CaughtUpMS = -1
	err := until(ctx, settleLimit, "the backlog is sent", func() error {
		a, err := t.cloudAgent(ctx)
		if err == nil && a.OnDevice > 0 {
			err = fmt.Errorf("%d records are on the device", a.OnDevice)
		}
		return err
	})
	if err == nil {
		v.CaughtUp(time.Since(healed))
	}
	// What came last may have been recorded after the frame that the cloud judges by.
	var last oracle.Findings
	missing := until(ctx, time.Minute, "everything acknowledged is there", func() error {
		check := book.Check()
		if err := t.api(ctx, func(ctx context.Context, c cloud.Client) error { return c.Readings(ctx, t.agent, check.Add) }); err != nil {
			return err
		}
		if last = check.Findings(); last.Missing > 0 {
			return fmt.Errorf("%d are missing", last.Missing)
		}
		return nil
	})
	v.Findings = last
	a, err2 := t.cloudAgent(ctx)
	v.Unexplained, v.Lost = a.Unexplained, a.Lost
	for _, alarm := range a.Alarms {
		v.Examples = append(v.Examples, fmt.Sprintf("alarm %s, %d times: %s %s", alarm.Kind, alarm.Count, alarm.Epoch, alarm.Detail))
	}
	v.Judge()
	return errors.Join(err, missing, err2)
}

// api lets f talk to the cloud's API with the token.
func (t *test) api(ctx context.Context, f func(context.Context, cloud.Client) error) error {
	return forward(ctx, cloudNamespace, "service/cloud-api", "8080", func(ctx context.Context, address string) error {
		return f(ctx, cloud.Client{URL: "http://" + address, HTTP: &http.Client{Transport: bearer(t.access)}})
	})
}

func (t *test) cloudAgent(ctx context.Context) (a cloud.Agent, err error) {
	err = t.api(ctx, func(ctx context.Context, c cloud.Client) (err error) {
		a, err = c.Agent(ctx, t.agent)
		return err
	})
	return a, err
}

// bearer adds an access token to every request.
type bearer string

// RoundTrip does not change the caller's request.
func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(r)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (r result) passed() bool { return r.skipped == "" && r.err == nil && r.verdict.Passed }

func (r result) line() string {
	if r.skipped != "" {
		return fmt.Sprintf("%-14s skipped: %s", r.name, r.skipped)
	}
	state := "passed"
	if !r.passed() {
		state = "FAILED"
	}
	v := r.verdict
	text := fmt.Sprintf("%-14s %s  published %d, acknowledged %d, stored %d, missing %d, doubled %d, unexplained %d; longest wait for a PUBACK %.1f s, caught up %.1f s after",
		r.name, state, v.Published, v.Acknowledged, v.Stored, v.Missing, v.Duplicates, v.Unexplained, r.worst.Seconds(), float64(v.CaughtUpMS)/1000)
	if v.Redelivered > 0 {
		text += fmt.Sprintf(", sent again by sensors %d", v.Redelivered)
	}
	if r.note != "" {
		text += "; " + r.note
	}
	for _, f := range append(slices.Clone(v.Faults), v.Examples...) {
		text += "\n      " + f
	}
	if r.err != nil {
		text += "\n      " + strings.ReplaceAll(r.err.Error(), "\n", "\n      ")
	}
	return text
}

// report prints the table and the count, and returns how many failed.
func (t *test) report(results []result) int {
	var passed, failed, skipped int
	t.screen.Print("\n")
	for _, r := range results {
		t.screen.Print(r.line() + "\n")
		switch {
		case r.skipped != "":
			skipped++
		case r.passed():
			passed++
		default:
			failed++
		}
	}
	t.screen.Print(fmt.Sprintf("%d passed, %d failed, %d skipped\n", passed, failed, skipped))
	return failed
}
