// Package stack runs the whole of Holdfast on one machine from real programs: a
// NATS server with JetStream on disk, two sidecars, the agent and the cloud. The
// edge reaches NATS only through a link that can be cut. Nothing that it starts
// outlives it.
package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/build"
	"github.com/holdfast-edge/holdfast/scripts/internal/cloud"
	"github.com/holdfast-edge/holdfast/scripts/internal/link"
	"github.com/holdfast-edge/holdfast/scripts/internal/process"
)

// Programs are what a stack needs to have been built.
func Programs() []build.Program {
	return []build.Program{build.NATSServer, build.Daprd, build.CloudAPI, build.EdgeAgent}
}

// Options say what to run and where.
type Options struct {
	Root     string      // of the repository: component files are read from it
	Dir      string      // empty folder for data, configuration and logs
	Programs build.Paths // of Programs
	Agent    string      // the agent's id; empty: demo-pi
}

// Stack is everything, running. Its processes may be killed, frozen and started
// again one by one.
type Stack struct {
	NATS  *process.Process
	Cloud Cloud
	Edge  Edge

	o     Options
	group *process.Group
	addr  addresses
}

// Cloud is the cloud's side.
type Cloud struct {
	API     *process.Process
	Sidecar *process.Process
	URL     string // of the public listener and the dashboard
}

// Edge is the device's side.
type Edge struct {
	Agent   *process.Process
	Sidecar *process.Process
	Link    *link.Link // between the sidecar and NATS
	ID      string
	MQTT    string // address of the agent's listener
	Status  string // URL of the agent's status page
	Data    string // the agent's folder
}

// addresses are the listeners, all on loopback.
type addresses struct {
	nats, natsMonitor             string
	cloudPublic, cloudApp         string
	cloudHTTP, cloudGRPC, cloudIn string
	edgeHTTP, edgeGRPC, edgeIn    string
	mqtt, status                  string
}

const (
	// readyLimit is how long one program may take to be ready: on an emulated
	// or loaded machine a sidecar takes its time.
	readyLimit = 60 * time.Second
	// stopLimit is how long one program may take to end in order.
	stopLimit = 10 * time.Second
)

// Start starts everything and returns when readings can flow from the agent to
// the database. When it fails, nothing is left running.
func Start(ctx context.Context, o Options) (*Stack, error) {
	if o.Agent == "" {
		o.Agent = "demo-pi"
	}
	s := &Stack{o: o, group: process.NewGroup()}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start stack: %w", err), s.Stop())
	}
	return s, nil
}

func (s *Stack) start(ctx context.Context) error {
	a := &s.addr
	var p ports
	if err := p.fill(&a.nats, &a.natsMonitor, &a.cloudPublic, &a.cloudApp, &a.cloudHTTP, &a.cloudGRPC,
		&a.cloudIn, &a.edgeHTTP, &a.edgeGRPC, &a.edgeIn, &a.mqtt, &a.status); err != nil {
		return err
	}
	for _, dir := range []string{"log", "cloud", "edge"} {
		if err := os.MkdirAll(filepath.Join(s.o.Dir, dir), 0o700); err != nil {
			return err
		}
	}
	for _, step := range []func(context.Context) error{s.startNATS, s.startCloud, s.startEdge} {
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
	if s.Edge.Link != nil {
		errs = append(errs, s.Edge.Link.Close())
	}
	return errors.Join(errs...)
}

// Failed delivers an error when a program ended by itself.
func (s *Stack) Failed() <-chan error { return s.group.Failed() }

// Dir is the folder with the data and the logs.
func (s *Stack) Dir() string { return s.o.Dir }

// Client reads from the cloud.
func (s *Stack) Client() cloud.Client { return cloud.Client{URL: s.Cloud.URL} }

// Processes are all the programs, in the order in which they were started.
func (s *Stack) Processes() []*process.Process {
	return []*process.Process{s.NATS, s.Cloud.API, s.Cloud.Sidecar, s.Edge.Sidecar, s.Edge.Agent}
}

func (s *Stack) startNATS(ctx context.Context) (err error) {
	file := filepath.Join(s.o.Dir, "nats.conf")
	if err := writeFile(file, natsConfig(s)); err != nil {
		return err
	}
	s.NATS, err = s.run(build.NATSServer, "nats-server", nil, "-c", file)
	if err != nil {
		return err
	}
	return s.await(ctx, s.NATS, "http://"+s.addr.natsMonitor+"/healthz")
}

func (s *Stack) startCloud(ctx context.Context) (err error) {
	s.Cloud.URL = "http://" + s.addr.cloudPublic
	token, err := newSecret(filepath.Join(s.o.Dir, "cloud", "app-token"))
	if err != nil {
		return err
	}
	if err := writeFile(s.cloudConfig(), cloudConfig(s)); err != nil {
		return err
	}
	s.Cloud.API, err = s.run(build.CloudAPI, "cloud-api", nil, "run", "--config", s.cloudConfig())
	if err != nil {
		return err
	}
	if err := s.await(ctx, s.Cloud.API, s.Cloud.URL+"/healthz"); err != nil {
		return err
	}
	s.Cloud.Sidecar, err = s.run(build.Daprd, "daprd-cloud",
		[]string{"APP_API_TOKEN=" + token, "HOLDFAST_NATS_URL=nats://" + s.addr.nats},
		append(sidecarArgs(s, "cloud-api", "cloud", s.addr.cloudHTTP, s.addr.cloudGRPC, s.addr.cloudIn),
			"--app-port", portOf(s.addr.cloudApp), "--app-protocol", "http")...)
	if err != nil {
		return err
	}
	if err := s.await(ctx, s.Cloud.Sidecar, "http://"+s.addr.cloudHTTP+"/v1.0/healthz"); err != nil {
		return err
	}
	return s.await(ctx, s.Cloud.API, s.Cloud.URL+"/readyz")
}

func (s *Stack) startEdge(ctx context.Context) (err error) {
	e := &s.Edge
	e.ID, e.MQTT, e.Status = s.o.Agent, s.addr.mqtt, "http://"+s.addr.status
	e.Data = filepath.Join(s.o.Dir, "edge", "data")
	if e.Link, err = link.Listen("127.0.0.1:0", s.addr.nats); err != nil {
		return err
	}
	e.Sidecar, err = s.run(build.Daprd, "daprd-edge", []string{"HOLDFAST_NATS_URL=nats://" + e.Link.Addr()},
		sidecarArgs(s, "edge-agent", "edge", s.addr.edgeHTTP, s.addr.edgeGRPC, s.addr.edgeIn)...)
	if err != nil {
		return err
	}
	if err := s.await(ctx, e.Sidecar, "http://"+s.addr.edgeHTTP+"/v1.0/healthz"); err != nil {
		return err
	}
	if err := s.enrolmentToken(ctx); err != nil {
		return err
	}
	config := filepath.Join(s.o.Dir, "edge", "edge-agent.yaml")
	if err := writeFile(config, edgeConfig(s)); err != nil {
		return err
	}
	if e.Agent, err = s.run(build.EdgeAgent, "edge-agent", nil, "run", "--config", config); err != nil {
		return err
	}
	if err := s.AgentReady(ctx); err != nil {
		return err
	}
	return s.enrolled(ctx)
}

// AgentReady waits until the agent takes messages: after Start, and after a
// restart of it.
func (s *Stack) AgentReady(ctx context.Context) error {
	return s.await(ctx, s.Edge.Agent, s.Edge.Status+"/healthz")
}
