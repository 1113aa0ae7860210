package testbed

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
)

// natsBinary builds the NATS server from the module that pins it; the go tool keeps the result in its cache.
var natsBinary = sync.OnceValues(func() (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	return goCommand(context.Background(), filepath.Join(root, "../../scripts/tools/nats-server"), "tool", "-n", "github.com/nats-io/nats-server/v2")
})

// NATS is a server with JetStream whose port and folder outlive it, so that it can be stopped, started and wiped.
type NATS struct {
	*Process
	t    testing.TB
	Port int
	Dir  string
	Conf string // further configuration, before Start
}

// NewNATS prepares a server and does not start it.
func NewNATS(t testing.TB) *NATS {
	return &NATS{t: t, Port: FreePort(t), Dir: filepath.Join(t.TempDir(), "store")}
}

// URL is where the server listens, or will.
func (n *NATS) URL() string { return fmt.Sprintf("nats://127.0.0.1:%d", n.Port) }

// Start starts the server and waits until it listens.
func (n *NATS) Start() *NATS {
	n.t.Helper()
	bin, err := natsBinary()
	if err != nil {
		n.t.Fatal(err)
	}
	conf := filepath.Join(n.t.TempDir(), "nats.conf")
	text := fmt.Sprintf("listen: \"127.0.0.1:%d\"\njetstream { store_dir: %q, max_file_store: 8G }\n%s\n", n.Port, n.Dir, n.Conf)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
	n.Process = Start(n.t, nil, bin, "-c", conf)
	Listening(n.t, n.Port, n.Process)
	return n
}

// Wipe kills the server, removes everything it stored, and starts it.
func (n *NATS) Wipe() {
	n.t.Helper()
	n.Kill()
	if err := os.RemoveAll(n.Dir); err != nil {
		n.t.Fatal(err)
	}
	n.Start()
}

// Server is an installed broker whose port and folder outlive it.
type Server struct {
	*Process
	t     testing.TB
	Port  int
	Dir   string
	start func(s *Server) *Process
}

// Start starts the broker and waits until it listens.
func (s *Server) Start() *Server {
	s.t.Helper()
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	s.Process = s.start(s)
	Listening(s.t, s.Port, s.Process)
	return s
}

// Wipe kills the broker, removes everything it stored, and starts it.
func (s *Server) Wipe() {
	s.t.Helper()
	s.Kill()
	if err := os.RemoveAll(s.Dir); err != nil {
		s.t.Fatal(err)
	}
	s.Start()
}

// NewMosquitto prepares an MQTT broker.
func NewMosquitto(t testing.TB) *Server {
	bin := Require(t, "mosquitto", "mosquitto", "/usr/sbin/mosquitto")
	return &Server{t: t, Port: FreePort(t), Dir: filepath.Join(t.TempDir(), "mosquitto"), start: func(s *Server) *Process {
		conf := filepath.Join(s.Dir, "mosquitto.conf")
		text := fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\npersistence false\nmax_inflight_messages 200\nuser root\n", s.Port)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return Start(t, nil, bin, "-c", conf)
	}}
}

// NewRedis prepares a Redis server that appends to its file.
func NewRedis(t testing.TB) *Server {
	bin := Require(t, "redis", "redis-server")
	return &Server{t: t, Port: FreePort(t), Dir: filepath.Join(t.TempDir(), "redis"), start: func(s *Server) *Process {
		return Start(t, nil, bin, "--port", strconv.Itoa(s.Port), "--bind", "127.0.0.1", "--dir", s.Dir, "--appendonly", "yes", "--save", "")
	}}
}

// NewRabbitMQ prepares a RabbitMQ node that shares nothing with one of the system.
func NewRabbitMQ(t testing.TB) *Server {
	bin := Require(t, "rabbitmq", "rabbitmq-server", "/usr/sbin/rabbitmq-server")
	if real := "/usr/lib/rabbitmq/bin/rabbitmq-server"; exists(real) {
		bin = real // Debian's wrapper insists on a user of its own
	}
	dist := FreePort(t)
	names := startEpmd(t)
	return &Server{t: t, Port: FreePort(t), Dir: filepath.Join(t.TempDir(), "rabbitmq"), start: func(s *Server) *Process {
		conf := filepath.Join(s.Dir, "rabbitmq.conf")
		text := fmt.Sprintf("listeners.tcp.1 = 127.0.0.1:%d\nloopback_users.guest = true\nvm_memory_high_watermark.relative = 0.6\n", s.Port)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return Start(t, []string{
			"HOME=" + s.Dir,
			"RABBITMQ_NODENAME=holdfast" + strconv.Itoa(s.Port) + "@localhost",
			"RABBITMQ_CONFIG_FILE=" + conf,
			"RABBITMQ_MNESIA_BASE=" + filepath.Join(s.Dir, "mnesia"),
			"RABBITMQ_LOG_BASE=" + filepath.Join(s.Dir, "log"),
			"RABBITMQ_ENABLED_PLUGINS_FILE=" + filepath.Join(s.Dir, "plugins"),
			"RABBITMQ_DIST_PORT=" + strconv.Itoa(dist),
			"RABBITMQ_NODE_IP_ADDRESS=127.0.0.1",
			"RABBITMQ_NODE_PORT=" + strconv.Itoa(s.Port),
			"ERL_EPMD_PORT=" + strconv.Itoa(names),
			"ERL_EPMD_ADDRESS=127.0.0.1",
			"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+S 2:2",
		}, bin)
	}}
}

// kafkaBinary builds the program that speaks Kafka's protocol.
var kafkaBinary = sync.OnceValues(func() (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	return build(filepath.Join(root, "internal/testbed/kafka"), "kafka")
})

// NewKafkaFake prepares a program that speaks Kafka's protocol and is no broker: each start is a wipe.
func NewKafkaFake(t testing.TB) *Server {
	return &Server{t: t, Port: FreePort(t), Dir: filepath.Join(t.TempDir(), "kafka"), start: func(s *Server) *Process {
		bin, err := kafkaBinary()
		if err != nil {
			t.Fatal(err)
		}
		return Start(t, nil, bin, "-port", strconv.Itoa(s.Port))
	}}
}

// startEpmd runs Erlang's name server in the foreground: RabbitMQ would start one that outlives the test.
func startEpmd(t testing.TB) int {
	t.Helper()
	port := FreePort(t)
	p := Start(t, nil, Require(t, "rabbitmq", "epmd"), "-port", strconv.Itoa(port), "-address", "127.0.0.1")
	Listening(t, port, p)
	return port
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
