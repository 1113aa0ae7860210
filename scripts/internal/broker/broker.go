// Package broker runs the message brokers that Holdfast's component files are
// for, as real programs on loopback, each with its data in a folder of its own:
// killed, wiped and started again as a test wants it.
package broker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/process"
)

// Kind is one make of broker.
type Kind struct {
	Name    string // of its folder in dapr-components
	Program string // the executable to look for; empty: it is built, not installed

	variable  string // by which the component files take the address
	url       func(addr string) string
	configure func(p place) ([]process.Spec, error) // the last one is the broker
	probe     func(ctx context.Context, p place) error
}

// place is where one broker lives.
type place struct {
	dir     string // configuration; what is stored lies in dir/data
	program string
	addr    string   // where clients connect
	aux     []string // further addresses on loopback, auxiliaries of them
	log     string
}

// auxiliaries is how many addresses a place has besides the one for clients:
// RabbitMQ wants two.
const auxiliaries = 2

func (p place) data() string { return filepath.Join(p.dir, "data") }

// ErrNotInstalled is returned by Find for a broker whose program is not on this
// machine.
var ErrNotInstalled = errors.New("not installed")

// Kinds returns every broker that this package can run, the default first.
func Kinds() []Kind { return []Kind{NATS(), Mosquitto(), Redis(), RabbitMQ(), Kafka()} }

// Named returns the kind with that name. MQTT is known as mosquitto too.
func Named(name string) (Kind, error) {
	if name == "mosquitto" {
		name = "mqtt"
	}
	var names []string
	for _, k := range Kinds() {
		if k.Name == name {
			return k, nil
		}
		names = append(names, k.Name)
	}
	return Kind{}, fmt.Errorf("no broker %q: there are %s", name, strings.Join(names, ", "))
}

// Find returns the path of the kind's program, also where Debian puts what only
// root runs. It returns ErrNotInstalled when there is none.
func (k Kind) Find() (string, error) {
	for _, path := range []string{k.Program, "/usr/sbin/" + k.Program, "/usr/lib/rabbitmq/bin/" + k.Program} {
		if found, err := exec.LookPath(path); err == nil {
			return found, nil
		}
	}
	return "", fmt.Errorf("%s: %w", k.Program, ErrNotInstalled)
}

// Env is what a sidecar needs in its environment to reach such a broker at addr:
// its own address or that of a link that leads to it.
func (k Kind) Env(addr string) []string { return []string{k.variable + "=" + k.url(addr)} }

// Options say where a broker lives.
type Options struct {
	Dir     string                 // for its configuration and data; made when absent
	Log     string                 // file
	Program string                 // path of the executable
	Address func() (string, error) // gives a free address on loopback at each call
	Restart time.Duration          // how soon a broker that ended by itself is started again; 0: never
}

// Server is a broker whose address and data outlive it.
type Server struct {
	*process.Process
	Addr string // where clients connect, running or not

	kind  Kind
	place place
}

// Start runs a broker in g and returns without waiting: poll Ready.
func (k Kind) Start(g *process.Group, o Options) (*Server, error) {
	s := &Server{kind: k, place: place{dir: o.Dir, program: o.Program, log: o.Log}}
	if err := s.prepare(o.Address); err != nil {
		return nil, fmt.Errorf("start %s: %w", k.Name, err)
	}
	specs, err := k.configure(s.place)
	if err != nil {
		return nil, fmt.Errorf("configure %s: %w", k.Name, err)
	}
	for _, spec := range specs {
		spec.Dir, spec.Restart = o.Dir, o.Restart
		if spec.Log == "" {
			spec.Log = o.Log
		}
		if s.Process, err = g.Start(spec); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Server) prepare(address func() (string, error)) (err error) {
	if err := os.MkdirAll(s.place.data(), 0o700); err != nil {
		return err
	}
	if s.Addr, err = address(); err != nil {
		return err
	}
	s.place.addr = s.Addr
	for range auxiliaries {
		addr, err := address()
		if err != nil {
			return err
		}
		s.place.aux = append(s.place.aux, addr)
	}
	return nil
}

// Kind returns what it is.
func (s *Server) Kind() Kind { return s.kind }

// Data is the folder of what it stores.
func (s *Server) Data() string { return s.place.data() }

// Ready returns nil when clients are served.
func (s *Server) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := s.kind.probe(ctx, s.place); err != nil {
		return fmt.Errorf("ask %s: %w", s.kind.Name, err)
	}
	return nil
}

// Wipe kills the broker if it runs and deletes everything that it stored. Start
// starts an empty one.
func (s *Server) Wipe() error {
	if err := s.Kill(); err != nil {
		return fmt.Errorf("wipe %s: %w", s.kind.Name, err)
	}
	if err := os.RemoveAll(s.place.data()); err != nil {
		return fmt.Errorf("wipe %s: %w", s.kind.Name, err)
	}
	return os.MkdirAll(s.place.data(), 0o700)
}
