package broker

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/holdfast-edge/holdfast/scripts/internal/loopback"
	"github.com/holdfast-edge/holdfast/scripts/internal/process"
)

// RabbitMQ is one node that shares nothing with a RabbitMQ of the system:
// neither its name nor Erlang's name server, folder or cookie.
func RabbitMQ() Kind {
	return Kind{
		Name:      "rabbitmq",
		Program:   "rabbitmq-server",
		variable:  "HOLDFAST_RABBITMQ_URL",
		url:       func(addr string) string { return "amqp://guest:guest@" + addr + "/" },
		configure: configureRabbitMQ,
		// A server that takes connections answers the protocol's header with a
		// method frame.
		probe: func(ctx context.Context, p place) error {
			return converse(ctx, p.addr, "AMQP\x00\x00\x09\x01", "\x01")
		},
	}
}

func configureRabbitMQ(p place) ([]process.Spec, error) {
	epmd, err := exec.LookPath("epmd")
	if err != nil {
		return nil, fmt.Errorf("epmd, Erlang's name server: %w", ErrNotInstalled)
	}
	conf := filepath.Join(p.dir, "rabbitmq.conf")
	text := fmt.Sprintf("listeners.tcp.1 = %s\nloopback_users.guest = true\nvm_memory_high_watermark.relative = 0.6\n", p.addr)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	names, dist := loopback.Port(p.aux[0]), loopback.Port(p.aux[1])
	return []process.Spec{
		// In the foreground: RabbitMQ would start one that outlives it.
		{Name: "epmd", Path: epmd, Args: []string{"-port", names, "-address", "127.0.0.1"}},
		{Name: "rabbitmq-server", Path: withoutWrapper(p.program), Env: []string{
			"HOME=" + p.dir,
			"RABBITMQ_NODENAME=holdfast" + loopback.Port(p.addr) + "@localhost",
			"RABBITMQ_CONFIG_FILE=" + conf,
			"RABBITMQ_MNESIA_BASE=" + filepath.Join(p.data(), "mnesia"),
			"RABBITMQ_LOG_BASE=" + filepath.Join(p.dir, "upgrades"),
			"RABBITMQ_LOGS=-",
			"RABBITMQ_ENABLED_PLUGINS_FILE=" + filepath.Join(p.dir, "plugins"),
			"RABBITMQ_DIST_PORT=" + dist,
			"RABBITMQ_NODE_IP_ADDRESS=127.0.0.1",
			"RABBITMQ_NODE_PORT=" + loopback.Port(p.addr),
			"ERL_EPMD_PORT=" + names,
			"ERL_EPMD_ADDRESS=127.0.0.1",
			"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+S 2:2",
			// The script then becomes the server instead of waiting for it, so
			// that a signal reaches the server itself.
			"RUNNING_UNDER_SYSTEMD=true",
		}},
	}, nil
}

// withoutWrapper avoids Debian's script around the server's own, which insists
// on a user of the system.
func withoutWrapper(program string) string {
	const plain = "/usr/lib/rabbitmq/bin/rabbitmq-server"
	if _, err := os.Stat(plain); err == nil && strings.HasPrefix(program, "/usr/sbin/") {
		return plain
	}
	return program
}
