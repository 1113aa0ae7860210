package peers

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/holdfast-edge/holdfast/scripts/internal/broker"
	"github.com/holdfast-edge/holdfast/scripts/internal/loopback"
	"github.com/holdfast-edge/holdfast/scripts/internal/process"
)

// Mosquitto starts two of them, the device's with a bridge to the cloud's, and a
// mosquitto_sub with a persistent session there. Tuned, they keep every message and
// write their database each second; otherwise they do as they come: 1 000 messages
// and half an hour.
func Mosquitto(ctx context.Context, place Place, ports *loopback.Ports, tuned bool) (*Peer, error) {
	program, err := broker.Mosquitto().Find()
	if err != nil {
		return nil, err
	}
	collector, err := exec.LookPath("mosquitto_sub")
	if err != nil {
		return nil, fmt.Errorf("mosquitto_sub: %w", broker.ErrNotInstalled)
	}
	at, err := addresses(ports, 2)
	if err != nil {
		return nil, err
	}
	peer, g, err := newPeer(place, ports, at[1])
	if err != nil {
		return nil, err
	}
	peer.MQTT = at[0]
	peer.Ready = func(ctx context.Context) error { return listening(ctx, peer.MQTT) }
	habits := ""
	if tuned {
		habits = "autosave_interval 1\nmax_queued_messages 0\n"
	}
	hubData := filepath.Join(place.Dir, "hub")
	bridge := fmt.Sprintf(`connection cloud
address 127.0.0.1:%s
topic %s/# out 1
cleansession false
notifications false
keepalive_interval 5
restart_timeout 1 5
`, loopback.Port(peer.Link.Addr()), Prefix)
	if peer.Hub, err = mosquitto(g, program, place.Dir, hubData, "hub", at[1], habits); err != nil {
		return peer, err
	}
	if err := listening(ctx, at[1]); err != nil {
		return peer, err
	}
	arrived := filepath.Join(place.Dir, "arrived.log")
	_, err = g.Start(process.Spec{
		Name: "mosquitto_sub", Path: collector, Log: arrived,
		Args: []string{"-h", "127.0.0.1", "-p", loopback.Port(at[1]), "-i", "collector", "-c", "-q", "1", "-k", "5", "-t", Prefix + "/#", "-F", "%t %p"},
	})
	if err != nil {
		return peer, err
	}
	peer.Read = func(_ context.Context, f func(string, []byte)) error { return lines(arrived, f) }
	if peer.Edge, err = mosquitto(g, program, place.Dir, place.Card, "edge", at[0], habits+bridge); err != nil {
		return peer, err
	}
	return peer, peer.Ready(ctx)
}

func mosquitto(g *process.Group, program, dir, data, name, addr, more string) (*process.Process, error) {
	if err := os.MkdirAll(data, 0o755); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, name+".conf")
	text := fmt.Sprintf(`listener %s 127.0.0.1
allow_anonymous true
user root
persistence true
persistence_location %s/
%s`, loopback.Port(addr), data, more)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return g.Start(process.Spec{Name: "mosquitto-" + name, Path: program, Args: []string{"-c", config}, Log: filepath.Join(dir, name+".log")})
}

// lines calls f with each line of a file that is a topic, a space and a payload.
func lines(path string, f func(topic string, payload []byte)) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(text) {
		topic, payload, ok := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
		if ok && bytes.HasPrefix(topic, []byte(Prefix+"/")) {
			f(string(topic), payload)
		}
	}
	return nil
}
