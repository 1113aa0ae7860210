// Package server builds the cloud from its parts and runs them together: it is
// the only place that knows all of them.
package server

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/api"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/config"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/dapr"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/dashboard"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/enrol"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/feed"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/ingest"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/keys"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/receipts"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store/postgres"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store/sqlite"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// stopTime bounds the graceful stop: shorter than the 30 s that Kubernetes and
// systemd leave before they kill.
const stopTime = 20 * time.Second

// Server is the whole cloud, listening. Run makes it work.
type Server struct {
	cfg      config.Config
	log      *slog.Logger
	store    store.Store
	keys     *keys.Keeper
	pub      *dapr.Publisher
	ingest   *ingest.Service
	receipts *receipts.Service
	feed     *feed.Feed
	fleet    *fleet
	api      *api.Server
	app      *dapr.App

	public, private net.Listener
	stopping        atomic.Bool
}

var (
	errStopping = errors.New("shutting down")
	errStore    = errors.New("the database is not usable")
)

// OpenStore opens the database that the configuration names.
func OpenStore(ctx context.Context, c config.Store, log *slog.Logger) (store.Store, error) {
	if c.Postgres.DSNFile != "" {
		return openPostgres(ctx, c, log)
	}
	st, err := sqlite.Open(ctx, sqlite.Options{Path: c.SQLite.Path, Retention: c.Retention.D(), Logger: log})
	if err != nil {
		return nil, err // not st: a nil *sqlite.Store is no nil store.Store
	}
	return st, nil
}

func openPostgres(ctx context.Context, c config.Store, log *slog.Logger) (store.Store, error) {
	dsn, err := config.Secret(c.Postgres.DSNFile)
	if err != nil {
		return nil, fmt.Errorf("store.postgres.dsn_file: %w", err)
	}
	st, err := postgres.Open(ctx, postgres.Options{DSN: dsn, Retention: c.Retention.D(), Logger: log})
	if err != nil {
		return nil, err // not st: a nil *postgres.Store is no nil store.Store
	}
	return st, nil
}

// Open opens the database and the keys, and listens. What it returns has to be
// run, which also closes it.
func Open(ctx context.Context, c config.Config, version string, log *slog.Logger) (*Server, error) {
	s := &Server{cfg: c, log: log}
	if err := s.open(ctx, version); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *Server) open(ctx context.Context, version string) error {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	var err error
	if s.keys, err = keys.Keep(s.cfg.Keys.Dir, s.log, reg); err != nil {
		return fmt.Errorf("open keys: %w", err)
	}
	if s.store, err = OpenStore(ctx, s.cfg.Store, s.log); err != nil {
		return err
	}
	if err := s.build(version, reg); err != nil {
		return err
	}
	if err := s.listen(); err != nil {
		return err
	}
	s.log.Info("server: open", "version", version, "public", s.public.Addr().String(), "app", s.private.Addr().String(), "root", s.keys.Ring().Fingerprint())
	return nil
}

func (s *Server) build(version string, reg *prometheus.Registry) error {
	daprToken, err := config.Secret(s.cfg.Dapr.TokenFile)
	if err != nil {
		return err
	}
	appToken, err := config.Secret(s.cfg.App.TokenFile)
	if err != nil {
		return err
	}
	access, err := s.access()
	if err != nil {
		return err
	}
	if s.pub, err = dapr.NewPublisher(s.cfg.Dapr.Address, s.cfg.Dapr.PubSub, daprToken); err != nil {
		return err
	}
	s.receipts = receipts.New(receipts.Options{
		Cloud: s.cfg.Name, Ledger: s.store, Publisher: s.pub, Logger: s.log, Registerer: reg,
		Signer: func() telemetry.ReceiptSigner { return s.keys.Ring().Receipt },
		Load:   func() float64 { return s.ingest.Load() },
	})
	s.ingest = ingest.New(ingest.Options{Store: s.store, Receipts: s.receipts, InHand: s.cfg.App.InHand, Logger: s.log, Registerer: reg})
	s.app = dapr.NewApp(dapr.AppOptions{Taker: s.ingest, Token: appToken, Ready: func() bool { return !s.stopping.Load() }, Logger: s.log})
	s.fleet = newFleet(reg)
	s.feed = feed.New(feed.Options{Store: s.store, Logger: s.log, Registerer: reg})
	enroller := &enrol.Service{Cloud: s.cfg.Name, Root: func() ed25519.PrivateKey { return s.keys.Ring().Root }, Store: s.store}
	s.api, err = api.New(api.Options{
		Tell:  func(agent string) { s.receipts.Due(agent, nil, nil) },
		Store: s.store, Feed: s.feed, Enroller: enroller, Ready: s.ready, Access: access,
		Dashboard: dashboard.Routes, Version: version, Logger: s.log, Gatherer: reg, Registerer: reg,
	})
	return err
}

// access returns nil when nothing is configured: then the listener is on
// loopback, which the configuration was checked for.
func (s *Server) access() (*api.Access, error) {
	c := s.cfg.Public.Access
	if c.None() {
		return nil, nil
	}
	a, err := api.OpenAccess(c.TokensFile, s.log)
	if err != nil {
		return nil, err
	}
	if o := c.OIDC; o.Issuer != "" {
		a.OIDC = api.NewOIDC(api.OIDCOptions{Issuer: o.Issuer, Audience: o.Audience, RolesClaim: o.RolesClaim, AgentsClaim: o.AgentsClaim})
	}
	return a, nil
}

func (s *Server) listen() (err error) {
	if s.public, err = net.Listen("tcp", s.cfg.Public.Listen); err != nil {
		return fmt.Errorf("public.listen: %w", err)
	}
	if s.private, err = net.Listen("tcp", s.cfg.App.Listen); err != nil {
		return fmt.Errorf("app.listen: %w", err)
	}
	return nil
}

// ready returns why the server should get no traffic, or what else an operator
// should know.
func (s *Server) ready(ctx context.Context) ([]string, error) {
	if s.stopping.Load() {
		return nil, errStopping
	}
	notes, err := s.store.Notes(ctx)
	if err = errors.Join(err, s.store.Ping(ctx)); err != nil {
		s.log.Warn("server: not ready", "error", err)
		return nil, errStore
	}
	if note := s.keys.Ring().Note(time.Now()); note != "" {
		notes = append(notes, note)
	}
	return notes, nil
}

// PublicAddr and AppAddr return where the server listens.
func (s *Server) PublicAddr() string { return s.public.Addr().String() }

// AppAddr returns where the sidecar is listened to.
func (s *Server) AppAddr() string { return s.private.Addr().String() }

// Run serves until ctx ends or a part fails. It then stops in the order of the
// way of a reading: no new events, the frames in hand committed, their receipts
// sent, the database closed.
func (s *Server) Run(ctx context.Context) error {
	work, stopWork := context.WithCancel(context.Background())
	defer stopWork()
	listeners, workers := make(chan error, 2), make(chan error, 4)
	go func() { workers <- s.receipts.Run(work) }()
	go func() { workers <- s.feed.Run(work) }()
	go func() { workers <- s.maintain(work) }()
	go func() { workers <- s.keys.Run(work) }()
	go func() { listeners <- serving("public.listen", s.api.Serve(s.public)) }()
	go func() { listeners <- serving("app.listen", s.app.Serve(s.private)) }()

	var err error
	select {
	case <-ctx.Done():
	case err = <-listeners:
	}
	s.stopping.Store(true)
	s.log.Info("server: stopping")
	stop, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	err = errors.Join(err, shutdown("app", s.app.Shutdown(stop)))
	stopWork() // ends the live streams too, which the public listener waits for
	for range cap(workers) {
		err = errors.Join(err, <-workers)
	}
	err = errors.Join(err, shutdown("api", s.api.Shutdown(stop)), s.close())
	s.log.Info("server: stopped")
	return err
}

func serving(key string, err error) error {
	if err == nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("%s: %w", key, err)
}

func shutdown(what string, err error) error {
	if err == nil || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("stop %s: %w", what, err)
}

// close closes what Open opened, as far as it came.
func (s *Server) close() error {
	var errs []error
	for _, ln := range []net.Listener{s.public, s.private} {
		if ln == nil {
			continue
		}
		if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if s.pub != nil {
		errs = append(errs, s.pub.Close())
	}
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	return errors.Join(errs...)
}

// CreateToken makes an enrolment token, in the database of a server that may be
// running.
func CreateToken(ctx context.Context, c config.Config, g enrol.Grant, log *slog.Logger) (token string, err error) {
	ring, err := keys.Open(c.Keys.Dir, time.Now())
	if err != nil {
		return "", fmt.Errorf("open keys: %w", err)
	}
	st, err := OpenStore(ctx, c.Store, log)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	t, err := enrol.Create(ctx, st, ring.Root.Public().(ed25519.PublicKey), g, time.Now())
	if err != nil {
		return "", err
	}
	return t.String(), nil
}

// Revoke shuts an agent out, or with the zero time takes it back, in the database
// of a server that may be running.
func Revoke(ctx context.Context, c config.Config, agent string, at time.Time, log *slog.Logger) (err error) {
	st, err := OpenStore(ctx, c.Store, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	return st.Revoke(ctx, agent, at)
}
