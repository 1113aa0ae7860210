// Package peers runs other programs that carry MQTT messages from a device through
// an outage to a cloud, so that the same can be done to them as to Holdfast: a
// broker on the device that stores on its disk, a link that can be cut, and a
// broker in the cloud from which everything is read that arrived.
package peers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/link"
	"github.com/holdfast-edge/holdfast/scripts/internal/loopback"
	"github.com/holdfast-edge/holdfast/scripts/internal/process"
)

// Prefix is with what the topics of sensors must begin.
const Prefix = "peers"

// readyLimit is how long a program may take to be ready on a busy machine.
const readyLimit = time.Minute

// Place is where a peer runs.
type Place struct {
	Dir  string // of configuration, logs and the cloud's data
	Card string // of the device's data: a folder on a disk of its own, or an ordinary one
}

// Peer is a running system.
type Peer struct {
	MQTT string           // where sensors publish
	Edge *process.Process // the program on the device
	Hub  *process.Process // the broker in the cloud
	Link *link.Link       // between the two

	// Ready waits until the device takes messages: after a restart of it.
	Ready func(context.Context) error
	// Read calls f with everything that has arrived in the cloud.
	Read func(ctx context.Context, f func(topic string, payload []byte)) error
	// Stop ends everything.
	Stop func() error
}

// newPeer returns a peer with a group and a link to the cloud's address.
func newPeer(p Place, ports *loopback.Ports, target string) (*Peer, *process.Group, error) {
	if err := errors.Join(os.MkdirAll(p.Dir, 0o711), os.MkdirAll(p.Card, 0o755)); err != nil {
		return nil, nil, err
	}
	addr, err := ports.Next()
	if err != nil {
		return nil, nil, err
	}
	l, err := link.Listen(addr, target)
	if err != nil {
		return nil, nil, err
	}
	g := process.NewGroup()
	stop := func() error { return errors.Join(g.Close(5*time.Second), l.Close()) }
	return &Peer{Link: l, Stop: stop}, g, nil
}

// addresses returns so many free ones.
func addresses(ports *loopback.Ports, n int) (all []string, err error) {
	for range n {
		addr, err := ports.Next()
		if err != nil {
			return nil, err
		}
		all = append(all, addr)
	}
	return all, nil
}

// listening waits until something takes connections at addr.
func listening(ctx context.Context, addr string) error {
	return until(ctx, func() error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// until polls ready.
func until(ctx context.Context, ready func() error) error {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready after %v: %w", readyLimit, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Sync makes durable what a device has on its card before anything happens to it:
// folders and files that were made at the first start are not what is tried.
func Sync(card string) error {
	return filepath.WalkDir(card, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() && !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was temporary
		}
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}
