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
	access      string            // token for the cloud's API
	password    string            // of the sensors
	users       object            // the Secret with the sensors' user
	readers     object            // the Secret with the hash of access
	nats        map[string]string // what the edge's sidecar connects with
	metrics     bool              // the cluster tells what pods use
	relay       *relay
	book        *oracle.Oracle // of the case that runs
	prefix      string         // of its topics
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
	if why := c.missing(t); why != "" {
		r.skipped = why
		return r
	}
	t.screen.Event("%s: %s", c.name, c.about)
	load := t.newLoad(ctx, c)
	pause(ctx, lead)
	r.note, r.err = c.play(ctx, t)
	r.err = errors.Join(r.err, t.catchUp(ctx, load, &r.verdict), load.catchUp(ctx))
	pause(ctx, lead)
	r.verdict.Expected = load.expected()
	r.err = errors.Join(r.err, load.end(), t.judge(ctx, &r.verdict))
	r.worst = t.book.Latency().Max()
	return r
}

// load is the sensors of a case.
type load struct {
	book  *oracle.Oracle
	rate  float64
	begin time.Time
	stop  chan struct{}
	done  chan error
	kill  context.CancelFunc
}

func (t *test) newLoad(ctx context.Context, c testCase) *load {
	t.prefix = "test/" + c.name
	shape := sensors.Shape{Prefix: t.prefix, Seed: rand.Uint64()}
	t.book = oracle.New(shape, t.sensors)
	l := &load{book: t.book, rate: t.rate, begin: time.Now(), stop: make(chan struct{}), done: make(chan error, 1)}
	if c.rate > 0 {
		l.rate = c.rate
	}
	fleet := &sensors.Fleet{
		Shape: shape, Addr: t.relay.address(), Username: mqttUser, Password: t.password,
		Sensors: t.sensors, Rate: l.rate, Window: 1000, Log: t.book,
	}
	ctx, l.kill = context.WithCancel(ctx)
	go func() { l.done <- fleet.Run(ctx, l.stop) }()
	return l
}

func (l *load) expected() uint64 { return uint64(l.rate * time.Since(l.begin).Seconds()) }

// catchUp waits until the sensors have got rid of what they could not send.
func (l *load) catchUp(ctx context.Context) error {
	return until(ctx, settleLimit, "sensors catch up", func() error {
		if late := int64(l.expected()) - int64(l.book.Totals().Acknowledged); late > int64(5*l.rate) {
			return fmt.Errorf("%d messages are late", late)
		}
		return nil
	})
}

// end waits for the last acknowledgements.
func (l *load) end() error {
	defer l.kill()
	close(l.stop)
	select {
	case err := <-l.done:
		return err
	case <-time.After(settleLimit):
		return errors.New("sensors still wait for acknowledgements")
	}
}

const (
	lead        = 3 * time.Second // of undisturbed load before and after a fault
	settleLimit = 5 * time.Minute // for the backlog of a fault
)

// catchUp waits, while sensors go on, until less than a second's worth of readings is under way.
func (t *test) catchUp(ctx context.Context, l *load, v *oracle.Verdict) error {
	v.CaughtUpMS = -1
	begin := time.Now()
	err := t.onDevice(ctx, uint64(l.rate))
	if err == nil {
		v.CaughtUp(time.Since(begin))
	}
	return err
}

// onDevice waits until the cloud knows of no more than most records on the device.
func (t *test) onDevice(ctx context.Context, most uint64) error {
	return until(ctx, settleLimit, "the backlog is sent", func() error {
		a, err := t.cloudAgent(ctx)
		if err == nil && a.OnDevice > most {
			err = fmt.Errorf("%d records are on the device", a.OnDevice)
		}
		return err
	})
}

// judge waits until the cloud knows of nothing left on the device, and reads everything back.
func (t *test) judge(ctx context.Context, v *oracle.Verdict) error {
	err := t.onDevice(ctx, 0)
	// What came last may have been recorded after the frame that the cloud judges by.
	var last oracle.Findings
	missing := until(ctx, time.Minute, "everything acknowledged is there", func() error {
		check := t.book.Check()
		if err := t.api(ctx, func(ctx context.Context, c cloud.Client) error {
			return c.ReadingsOf(ctx, t.agent, t.prefix+"/#", check.Add)
		}); err != nil {
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
	text := fmt.Sprintf("%-14s %s  published %d, acknowledged %d, stored %d, missing %d, doubled %d, unexplained %d; longest wait for a PUBACK %.1f s, caught up within %.1f s",
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
