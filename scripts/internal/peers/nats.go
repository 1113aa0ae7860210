package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-edge/holdfast/scripts/internal/loopback"
	"github.com/holdfast-edge/holdfast/scripts/internal/process"
)

// The streams on the device and in the cloud.
const (
	edgeStream = "READINGS"
	hubStream  = "CLOUD"
)

// NATS starts two servers: the device's takes MQTT, stores what comes in a stream,
// and is a leaf of the cloud's, which mirrors that stream. Tuned, both sync each
// message before they acknowledge it; otherwise, as they come, every two minutes.
// program is nats-server.
func NATS(ctx context.Context, place Place, ports *loopback.Ports, program string, tuned bool) (*Peer, error) {
	at, err := addresses(ports, 4)
	if err != nil {
		return nil, err
	}
	edge, hub, leaf := at[1], at[2], at[3]
	peer, g, err := newPeer(place, ports, leaf)
	if err != nil {
		return nil, err
	}
	peer.MQTT = at[0]
	peer.Ready = func(ctx context.Context) error { return errors.Join(listening(ctx, peer.MQTT), listening(ctx, edge)) }
	habits := ""
	if tuned {
		habits = ", sync_interval: always"
	}
	start := func(name, addr, data, more string) (*process.Process, error) {
		config := filepath.Join(place.Dir, name+".conf")
		text := fmt.Sprintf("server_name: %s\nlisten: %q\njetstream { store_dir: %q, domain: %s%s }\n%s", name, addr, data, name, habits, more)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return nil, err
		}
		return g.Start(process.Spec{Name: "nats-" + name, Path: program, Args: []string{"-c", config}, Log: filepath.Join(place.Dir, name+".log")})
	}
	if peer.Hub, err = start("hub", hub, filepath.Join(place.Dir, "hub"), fmt.Sprintf("leafnodes { listen: %q }\n", leaf)); err != nil {
		return peer, err
	}
	if err := listening(ctx, leaf); err != nil {
		return peer, err
	}
	peer.Edge, err = start("edge", edge, place.Card, fmt.Sprintf("mqtt { listen: %q }\nleafnodes { reconnect: 1, remotes [ { url: \"nats-leaf://%s\" } ] }\n", peer.MQTT, peer.Link.Addr()))
	if err != nil {
		return peer, err
	}
	if err := peer.Ready(ctx); err != nil {
		return peer, err
	}
	return peer, peer.mirror(ctx, edge, hub)
}

// mirror makes the two streams.
func (p *Peer) mirror(ctx context.Context, edge, hub string) error {
	on, err := nats.Connect("nats://" + edge)
	if err != nil {
		return err
	}
	defer on.Close()
	device, err := jetstream.New(on)
	if err != nil {
		return err
	}
	err = until(ctx, func() error {
		_, err := device.CreateStream(ctx, jetstream.StreamConfig{Name: edgeStream, Subjects: []string{Prefix + ".>"}})
		return err
	})
	if err != nil {
		return fmt.Errorf("make the device's stream: %w", err)
	}
	conn, err := nats.Connect("nats://"+hub, nats.MaxReconnects(-1), nats.ReconnectWait(200*time.Millisecond))
	if err != nil {
		return err
	}
	stop := p.Stop
	p.Stop = func() error {
		conn.Close()
		return stop()
	}
	cloud, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	var stream jetstream.Stream
	err = until(ctx, func() (err error) {
		stream, err = cloud.CreateStream(ctx, jetstream.StreamConfig{Name: hubStream, Mirror: &jetstream.StreamSource{Name: edgeStream, Domain: "edge"}})
		return err
	})
	p.Read = func(ctx context.Context, f func(string, []byte)) error { return everything(ctx, stream, f) }
	return err
}

// everything reads a stream from its first message to its last.
func everything(ctx context.Context, stream jetstream.Stream, f func(topic string, payload []byte)) error {
	info, err := stream.Info(ctx)
	if err != nil || info.State.Msgs == 0 {
		return err
	}
	all, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return err
	}
	for left := info.State.Msgs; left > 0; {
		batch, err := all.Fetch(int(min(left, 1000)), jetstream.FetchMaxWait(5*time.Second))
		if err != nil {
			return err
		}
		got := uint64(0)
		for m := range batch.Messages() {
			f(strings.ReplaceAll(m.Subject(), ".", "/"), m.Data())
			got++
		}
		if err := batch.Error(); err != nil {
			return err
		}
		if got == 0 {
			return fmt.Errorf("%d of %d messages of the stream cannot be read", left, info.State.Msgs)
		}
		left -= min(left, got)
	}
	return nil
}
