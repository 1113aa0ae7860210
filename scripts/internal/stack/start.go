package stack

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/holdfast-edge/holdfast/scripts/internal/broker"
	"github.com/holdfast-edge/holdfast/scripts/internal/build"
	"github.com/holdfast-edge/holdfast/scripts/internal/disorder"
	"github.com/holdfast-edge/holdfast/scripts/internal/link"
	"github.com/holdfast-edge/holdfast/scripts/internal/loopback"
	"github.com/holdfast-edge/holdfast/scripts/internal/postgres"
	"github.com/holdfast-edge/holdfast/scripts/internal/process"
)

func (s *Stack) startBroker(ctx context.Context) (err error) {
	kind := s.o.Broker
	if kind.Name == "" {
		kind = broker.NATS()
	}
	program := s.o.Programs[build.NATSServer.Name]
	if kind.Program != "" {
		if program, err = kind.Find(); err != nil {
			return err
		}
	}
	dir := s.o.Volumes.Broker
	if dir == "" {
		dir = filepath.Join(s.o.Dir, "broker")
	}
	s.Broker, err = kind.Start(s.group, broker.Options{
		Dir:     dir,
		Log:     filepath.Join(s.o.Dir, "log", "broker.log"),
		Program: program,
		Address: s.ports.Next,
		Restart: s.o.Supervise,
	})
	if err != nil {
		return err
	}
	return s.BrokerReady(ctx)
}

func (s *Stack) startCloud(ctx context.Context) error {
	if err := s.startPostgres(ctx); err != nil {
		return err
	}
	token, err := newSecret(s.appToken())
	if err != nil {
		return err
	}
	// The first one makes the schema and the keys that all of them use.
	for i := range max(s.o.Replicas, 1) {
		r := s.Cloud.Replica
		if i > 0 {
			r = &Replica{}
			s.Cloud.More = append(s.Cloud.More, r)
		}
		if err := s.startReplica(ctx, r, i, token); err != nil {
			return err
		}
	}
	return s.CloudReady(ctx)
}

func (s *Stack) startPostgres(ctx context.Context) (err error) {
	if s.o.Postgres == nil {
		return nil
	}
	dir := s.o.Volumes.Database
	if dir == "" {
		dir = filepath.Join(s.o.Dir, "database")
	}
	// PostgreSQL may have to run as another user, who must get there.
	if err := errors.Join(os.Chmod(s.o.Dir, 0o711), os.MkdirAll(dir, 0o711)); err != nil {
		return err
	}
	s.Postgres, err = postgres.Start(ctx, s.group, postgres.Options{
		Programs: *s.o.Postgres, Dir: filepath.Join(dir, "postgres"), Log: filepath.Join(s.o.Dir, "log"),
		Address: s.ports.Next, Restart: s.o.Supervise,
	})
	if err != nil {
		return err
	}
	return writeFile(s.dsnFile(), s.Postgres.DSN())
}

func (s *Stack) startReplica(ctx context.Context, r *Replica, i int, token string) (err error) {
	var public string
	if err := s.ports.Fill(&public, &r.app, &r.at.http, &r.at.grpc, &r.at.internal); err != nil {
		return err
	}
	r.URL = "http://" + public
	app, sidecar, err := s.expose(r)
	if err != nil {
		return err
	}
	if err := writeFile(s.cloudFile(i), s.cloudConfig(public, r.app, sidecar)); err != nil {
		return err
	}
	r.API, err = s.run(build.CloudAPI, "cloud-api"+suffix(i), nil, "run", "--config", s.cloudFile(i))
	if err != nil {
		return err
	}
	if err := s.await(ctx, r.API, r.URL+"/healthz"); err != nil {
		return err
	}
	r.Sidecar, err = s.sidecar(ctx, "daprd-cloud"+suffix(i), r.at,
		append(s.Broker.Kind().Env(s.Broker.Addr), "APP_API_TOKEN="+token),
		append(s.sidecarArgs("cloud-api", "cloud", r.at), "--app-port", loopback.Port(app), "--app-protocol", "http"))
	return err
}

// expose returns where the sidecar finds the cloud's app and where the cloud
// finds its sidecar: each other, or what stands between them.
func (s *Stack) expose(r *Replica) (app, sidecar string, err error) {
	app, sidecar = r.app, r.at.grpc
	if !s.o.Exposed {
		return app, sidecar, nil
	}
	if r.Receipts, err = s.Link(sidecar); err != nil {
		return "", "", err
	}
	if r.Door, err = disorder.Listen("127.0.0.1:0", app); err != nil {
		return "", "", err
	}
	return r.Door.Addr(), r.Receipts.Addr(), nil
}

// Link opens a link to an address. Nobody grabs its own while it is cut, which
// can be for minutes.
func (s *Stack) Link(target string) (*link.Link, error) {
	addr, err := s.ports.Next()
	if err != nil {
		return nil, err
	}
	return link.Listen(addr, target)
}

// sidecar starts a daprd and waits until its API answers.
func (s *Stack) sidecar(ctx context.Context, name string, at sidecarPorts, env, args []string) (*process.Process, error) {
	p, err := s.run(build.Daprd, name, env, args...)
	if err != nil {
		return nil, err
	}
	return p, s.await(ctx, p, "http://"+at.http+"/v1.0/healthz")
}

func (s *Stack) startEdge(ctx context.Context) error {
	data := filepath.Join(s.o.Dir, "edge", "data")
	if v := s.o.Volumes.Edge; v != "" {
		data = filepath.Join(v, "data")
	}
	e, err := s.Device(ctx, "edge", s.o.Agent, data, s.o.AgentConfig)
	if err != nil {
		return err
	}
	s.Edge = *e
	return nil
}

// Device starts one more device: a sidecar on a link of its own and an agent, and
// waits until it is enrolled. The name tells its files from those of others; more
// is YAML for its configuration. Stop ends it too.
func (s *Stack) Device(ctx context.Context, name, id, data, more string) (*Edge, error) {
	e := &Edge{ID: id, Data: data, config: more}
	var at sidecarPorts
	if err := s.place(e, &at); err != nil {
		return nil, err
	}
	var err error
	if e.Link, err = s.Link(s.Broker.Addr); err != nil {
		return nil, err
	}
	s.links = append(s.links, e.Link)
	if err := s.enrolmentToken(ctx, e.ID); err != nil {
		return nil, err
	}
	if err := s.startDevice(ctx, e, name, at); err != nil {
		return nil, err
	}
	return e, s.enrolled(ctx, e)
}

// place finds addresses for a device.
func (s *Stack) place(e *Edge, at *sidecarPorts) error {
	var status string
	err := s.ports.Fill(&at.http, &at.grpc, &at.internal, &e.MQTT, &status)
	e.Status = "http://" + status
	return err
}

// startDevice starts the sidecar and the agent of e, whose addresses and data
// are decided. The name tells its files from those of others.
func (s *Stack) startDevice(ctx context.Context, e *Edge, name string, at sidecarPorts) (err error) {
	e.Sidecar, err = s.sidecar(ctx, "daprd-"+name, at, s.Broker.Kind().Env(e.Link.Addr()), s.sidecarArgs("edge-agent", "edge", at))
	if err != nil {
		return err
	}
	config := filepath.Join(s.o.Dir, "edge", name+"-agent.yaml")
	if err := writeFile(config, s.edgeConfig(e, at.grpc)); err != nil {
		return err
	}
	if e.Agent, err = s.run(build.EdgeAgent, name+"-agent", nil, "run", "--config", config); err != nil {
		return err
	}
	return s.await(ctx, e.Agent, e.Status+"/healthz")
}

// Clone starts a second agent, with a sidecar of its own on the same link, from
// data, a copy of the first one's folder: what a copied card is in a second
// device. Stop ends it too.
func (s *Stack) Clone(ctx context.Context, name, data string) (*Edge, error) {
	e := &Edge{ID: s.Edge.ID, Link: s.Edge.Link, Data: data, config: s.o.AgentConfig}
	var at sidecarPorts
	if err := s.place(e, &at); err != nil {
		return nil, err
	}
	return e, s.startDevice(ctx, e, name, at)
}
