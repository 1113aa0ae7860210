// Package agent puts the parts together and runs them: intake before the
// outbox, the uplink behind it, the status beside all. It decides in which order
// things start and stop, and nothing else.
package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/clock"
	"github.com/holdfast-edge/holdfast/edge-agent/internal/config"
	"github.com/holdfast-edge/holdfast/edge-agent/internal/dapr"
	"github.com/holdfast-edge/holdfast/edge-agent/internal/drill"
	"github.com/holdfast-edge/holdfast/edge-agent/internal/intake"
	"github.com/holdfast-edge/holdfast/edge-agent/internal/outbox"
	"github.com/holdfast-edge/holdfast/edge-agent/internal/status"
	"github.com/holdfast-edge/holdfast/edge-agent/internal/uplink"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Options is what an Agent needs.
type Options struct {
	Config  config.Config // as config.Load returns it
	Version string
	Logger  *slog.Logger
	Clock   clock.Clock // nil: the system's

	fullGrace time.Duration // tests only; 0: the outbox's
}

// Agent is everything that runs on the device.
type Agent struct {
	config  config.Config
	version string
	log     *slog.Logger
	clock   clock.Clock
	grace   time.Duration
	started telemetry.Instant
	metrics *prometheus.Registry

	key     ed25519.PrivateKey
	roots   *roots
	outbox  *outbox.Outbox
	sidecar *dapr.Client
	uplink  *uplink.Uplink
	server  *intake.Server     // nil when it does not listen
	broker  *intake.Subscriber // nil when there is none
	status  *status.Server
	gate    *drill.Gate    // between uplink and sidecar
	drill   *drill.Control // nil where no socket can be

	closers []func() error // in reverse
}

// New opens whatever the agent keeps and listens on: folder, key, outbox and
// ports. Its errors say what to do. Nothing runs before Run.
func New(o Options) (*Agent, error) {
	a := &Agent{config: o.Config, version: o.Version, log: o.Logger, clock: o.Clock, grace: o.fullGrace, metrics: prometheus.NewRegistry()}
	if a.clock == nil {
		a.clock = clock.System()
	}
	a.started = a.clock.Now()
	a.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, open := range []func() error{a.openKeys, a.openOutbox, a.openUplink, a.openIntake, a.openStatus, a.openDrill} {
		if err := open(); err != nil {
			return nil, errors.Join(err, a.close())
		}
	}
	return a, nil
}

func (a *Agent) close() error {
	var all []error
	for i := len(a.closers) - 1; i >= 0; i-- {
		if err := a.closers[i](); !errors.Is(err, net.ErrClosed) {
			all = append(all, err)
		}
	}
	return errors.Join(all...)
}

func (a *Agent) onClose(f func() error) { a.closers = append(a.closers, f) }

func (a *Agent) openKeys() (err error) {
	if err := openData(a.config.Data); err != nil {
		return err
	}
	if a.key, err = LoadOrMakeKey(a.config.Data); err != nil {
		return err
	}
	a.roots = &roots{dir: a.config.Data, agent: a.config.Agent, log: a.log}
	return nil
}

func (a *Agent) openOutbox() error {
	boot, err := clock.Boot()
	if err != nil {
		a.log.Warn("boot id unknown: the cloud cannot tell which epochs share time since boot", "error", err)
	}
	c := a.config.Outbox
	reserve := int64(c.ReserveBytes)
	if reserve == 0 {
		reserve = -1 // none
	}
	a.outbox, err = outbox.Open(outbox.Options{
		Dir: c.Dir, Agent: a.config.Agent, Version: a.version, Profile: outbox.Profile(c.Profile), Interval: c.Interval.D(),
		MaxBytes: int64(c.MaxBytes), KeepBytes: int64(c.KeepBytes), ReserveBytes: reserve, MaxAge: c.MaxAge.D(),
		Full: outbox.Policy(c.Full), FullGrace: a.grace, Now: a.clock.Now, Boot: boot, Logger: a.log, Registerer: a.metrics,
	})
	switch {
	case errors.Is(err, outbox.ErrLocked):
		return fmt.Errorf("%w: another edge-agent uses %s; stop it (systemctl status edge-agent), or set outbox.dir to a folder of its own", err, c.Dir)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w (give the folder to this user: sudo chown -R %d %s)", err, os.Getuid(), c.Dir)
	case err != nil:
		return err
	}
	a.onClose(a.outbox.Close)
	return nil
}

func (a *Agent) openUplink() error {
	c := a.config.Uplink
	token := ""
	if c.DaprTokenFile != "" {
		var err error
		if token, err = readSecret(c.DaprTokenFile); err != nil {
			return fmt.Errorf("read uplink.dapr_token_file: %w", err)
		}
	}
	var err error
	a.sidecar, err = dapr.New(dapr.Options{
		Address: c.DaprAddress, Token: token, PubSub: c.PubSub, Logger: a.log, Registerer: a.metrics,
	})
	if err != nil {
		return err
	}
	a.onClose(a.sidecar.Close)
	a.gate = &drill.Gate{Publisher: a.sidecar}
	a.uplink, err = uplink.New(uplink.Options{
		Agent: a.config.Agent, Key: a.key, Root: a.roots.Root, Outbox: a.outbox, Publisher: a.gate,
		Now: a.clock.Now, Trusted: a.trusted, MaxWindow: int64(c.MaxWindow), IdleInterval: c.IdleInterval.D(),
		Logger: a.log, Registerer: a.metrics,
	})
	return err
}

// trusted returns the wall clock while the kernel calls it synchronised.
func (a *Agent) trusted() time.Time {
	if !a.clock.Sync().Synchronised {
		return time.Time{}
	}
	return time.Unix(0, a.clock.Now().Wall)
}

func (a *Agent) openStatus() (err error) {
	a.status, err = status.Listen(status.Options{
		Address: a.config.Status.Listen, Report: a.Report, Gatherer: a.metrics, Logger: a.log,
	})
	if err != nil {
		return err
	}
	a.onClose(a.status.Close)
	return nil
}

// StatusAddr returns the address of the status page.
func (a *Agent) StatusAddr() net.Addr { return a.status.Addr() }

// MQTTAddr returns the address of the MQTT listener; nil when there is none.
func (a *Agent) MQTTAddr() net.Addr {
	if a.server == nil {
		return nil
	}
	return a.server.Addr()
}

// Run runs the agent until ctx ends or a part fails, and closes it. Intake stops
// first, when what it took in is durable and acknowledged; the committer and the
// status stop last.
func (a *Agent) Run(ctx context.Context) error {
	a.log.Info("agent started", "agent", a.config.Agent, "version", a.version, "data", a.config.Data,
		"key", telemetry.Fingerprint(a.key.Public().(ed25519.PublicKey)))
	manager := newSystemd(os.Getenv, func() { a.Report() }, a.log)
	front := []part{{"systemd", manager.Run}}
	if a.server != nil {
		front = append(front, part{"mqtt listener", a.server.Run})
	}
	if a.broker != nil {
		front = append(front, part{"mqtt broker", a.broker.Run})
	}
	back := []part{
		{"uplink", a.uplink.Run},
		{"receipts", func(ctx context.Context) error {
			return a.sidecar.Subscribe(ctx, uplink.DownTopic(a.config.Agent), a.receipt)
		}},
		{"clock", (&clock.Anchors{Clock: a.clock, Recorder: store{a.outbox}, Logger: a.log}).Run},
		{"enrolment", a.roots.Run},
	}
	if c := a.config.Enrol; c.URL != "" {
		e := &enroller{dir: a.config.Data, agent: a.config.Agent, url: c.URL, tokenFile: c.TokenFile, log: a.log}
		back = append(back, part{"enroller", e.Run})
	}
	if a.drill != nil {
		back = append(back, part{"drill", a.drill.Run})
	}
	base := []part{{"outbox", a.outbox.Run}, {"status", a.status.Run}}
	err := errors.Join(runStages(ctx, front, back, base), a.close())
	a.log.Info("agent stopped", "error", err)
	return err
}

// store is the outbox as intake and clock see it.
type store struct{ *outbox.Outbox }

func (s store) Submit(ctx context.Context, r *telemetry.Reading, o *telemetry.Oversized, done func(uint64, error)) error {
	return s.Outbox.Submit(ctx, outbox.Draft{Reading: r, Oversized: o}, done)
}

func (s store) Anchor(ctx context.Context, at telemetry.Instant, anchor telemetry.Anchor) error {
	_, err := s.Append(ctx, outbox.Draft{At: at, Anchor: &anchor})
	return err
}
