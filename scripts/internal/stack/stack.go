// Package stack runs the whole of Holdfast on one machine from real programs: a
// broker with its data on disk, two sidecars, the agent and the cloud. The edge
// reaches the broker only through a link that can be cut. Nothing that it starts
// outlives it.
package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/broker"
	"github.com/holdfast-edge/holdfast/scripts/internal/build"
	"github.com/holdfast-edge/holdfast/scripts/internal/cloud"
	"github.com/holdfast-edge/holdfast/scripts/internal/disorder"
	"github.com/holdfast-edge/holdfast/scripts/internal/link"
	"github.com/holdfast-edge/holdfast/scripts/internal/loopback"
	"github.com/holdfast-edge/holdfast/scripts/internal/postgres"
	"github.com/holdfast-edge/holdfast/scripts/internal/process"
)

// Programs are what a stack with NATS needs to have been built.
func Programs() []build.Program {
	return []build.Program{build.NATSServer, build.Daprd, build.CloudAPI, build.EdgeAgent}
}

// FaultyAgent is an agent whose clock can be steered and who can be made to
// delete too early. Without being told so it behaves like any other.
var FaultyAgent = build.Program{Name: "edge-agent-faults", Dir: build.EdgeAgent.Dir, Package: build.EdgeAgent.Package, Tags: "faults"}

// Options say what to run and where.
type Options struct {
	Root     string      // of the repository: component files are read from it
	Dir      string      // empty folder for data, configuration and logs
	Programs build.Paths // of Programs
	Agent    string      // the agent's id; empty: demo-pi
	Broker   broker.Kind // zero: NATS
	NoEdge   bool        // no device is started: it runs elsewhere
	Exposed  bool        // the cloud's side can be disturbed too: Cloud.Receipts and Cloud.Door

	// Restart is how soon a sidecar that ended by itself is started again; 0:
	// never, and its end is a failure. Ours does not end; Dapr's own does.
	Restart time.Duration
	Env     []string // of sidecars, in addition: NAME=value

	// Supervise is the same for every program, as systemd and Kubernetes do it.
	Supervise time.Duration

	Postgres *postgres.Programs // the cloud's database; nil: SQLite
	Replicas int                // of the cloud, each with a sidecar; 0: one. More need Postgres

	Volumes     Volumes  // empty: below Dir
	AgentEnv    []string // of agents, in addition
	AgentConfig string   // YAML for the first agent, in addition to what every one here has
}

// Volumes are folders that exist, on disks of their own.
type Volumes struct{ Edge, Broker, Database string }

// Stack is everything, running. Its processes may be killed, frozen and started
// again one by one.
type Stack struct {
	Broker   *broker.Server
	Cloud    Cloud
	Edge     Edge
	Postgres *postgres.Cluster // nil with SQLite

	o     Options
	group *process.Group
	ports loopback.Ports
	links []*link.Link // of devices
}

// Cloud is the cloud's side: a replica, and more of them where it has several.
type Cloud struct {
	*Replica
	More []*Replica
}

// Replica is a cloud-api with its sidecar.
type Replica struct {
	API     *process.Process
	Sidecar *process.Process
	URL     string // of the public listener and the dashboard

	// Of a stack that is Exposed, otherwise nil.
	Receipts *link.Link      // on which the cloud hands its receipts to its sidecar
	Door     *disorder.Proxy // through which the sidecar hands it frames

	app string // where the sidecar's deliveries go in the end
	at  sidecarPorts
}

// Replicas are all of them.
func (c Cloud) Replicas() []*Replica { return append([]*Replica{c.Replica}, c.More...) }

// Edge is the device's side.
type Edge struct {
	Agent   *process.Process
	Sidecar *process.Process
	Link    *link.Link // between the sidecar and the broker
	ID      string
	MQTT    string // address of the agent's listener
	Status  string // URL of the agent's status page
	Data    string // the agent's folder

	config string // YAML, in addition to what every agent here has
}

// sidecarPorts are where one sidecar listens.
type sidecarPorts struct{ http, grpc, internal string }

const (
	// readyLimit is how long one program may take to be ready: on an emulated
	// or loaded machine a sidecar takes its time; at a load of 60 RabbitMQ took
	// more than three minutes.
	readyLimit = 5 * time.Minute
	// stopLimit is how long one program may take to end in order.
	stopLimit = 10 * time.Second
)

// Start starts everything and returns when readings can flow from the agent to
// the database. When it fails, nothing is left running.
func Start(ctx context.Context, o Options) (*Stack, error) {
	if o.Agent == "" {
		o.Agent = "demo-pi"
	}
	s := &Stack{o: o, group: process.NewGroup(), Cloud: Cloud{Replica: &Replica{}}}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start stack: %w", err), s.Stop())
	}
	return s, nil
}

func (s *Stack) start(ctx context.Context) error {
	for _, dir := range []string{"log", "cloud", "edge"} {
		if err := os.MkdirAll(filepath.Join(s.o.Dir, dir), 0o700); err != nil {
			return err
		}
	}
	steps := []func(context.Context) error{s.startBroker, s.startCloud, s.startEdge}
	if s.o.NoEdge {
		steps = steps[:2]
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends everything, the edge first, and waits. It may be called twice.
func (s *Stack) Stop() error {
	var errs []error
	if s.group != nil {
		errs = append(errs, s.group.Close(stopLimit))
		s.group = nil
	}
	for _, l := range s.links {
		errs = append(errs, l.Close())
	}
	for _, r := range s.Cloud.Replicas() {
		if r.Receipts != nil {
			errs = append(errs, r.Receipts.Close())
		}
		if r.Door != nil {
			errs = append(errs, r.Door.Close())
		}
	}
	return errors.Join(errs...)
}

// Failed delivers an error when a program ended by itself.
func (s *Stack) Failed() <-chan error { return s.group.Failed() }

// Dir is the folder with the data and the logs.
func (s *Stack) Dir() string { return s.o.Dir }

// Database is the path of the cloud's database where that is SQLite, whose own
// files lie beside it.
func (s *Stack) Database() string { return filepath.Join(s.database(), "readings.db") }

// database is the folder of what the cloud stores.
func (s *Stack) database() string {
	if v := s.o.Volumes.Database; v != "" {
		return v
	}
	return filepath.Join(s.o.Dir, "cloud")
}

// Client reads from the first replica of the cloud that runs.
func (s *Stack) Client() cloud.Client {
	for _, r := range s.Cloud.Replicas() {
		if r.API.Running() {
			return cloud.Client{URL: r.URL}
		}
	}
	return cloud.Client{URL: s.Cloud.URL}
}

// Processes are all the programs but the database, in the order in which they
// were started.
func (s *Stack) Processes() []*process.Process {
	all := []*process.Process{s.Broker.Process}
	for _, r := range s.Cloud.Replicas() {
		all = append(all, r.API, r.Sidecar)
	}
	return append(all, s.Edge.Sidecar, s.Edge.Agent)
}

// AgentReady waits until the agent takes messages: after Start, and after a
// restart of it.
func (s *Stack) AgentReady(ctx context.Context) error {
	return s.await(ctx, s.Edge.Agent, s.Edge.Status+"/healthz")
}

// CloudReady waits until every replica of the cloud takes frames: after a restart
// of it.
func (s *Stack) CloudReady(ctx context.Context) error {
	for _, r := range s.Cloud.Replicas() {
		if err := s.await(ctx, r.API, r.URL+"/readyz"); err != nil {
			return err
		}
	}
	return nil
}

// BrokerReady waits until the broker serves clients: after a restart of it.
func (s *Stack) BrokerReady(ctx context.Context) error {
	return until(ctx, s.Broker.Process, func() error { return s.Broker.Ready(ctx) })
}
