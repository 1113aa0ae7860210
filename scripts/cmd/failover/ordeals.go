package main

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/disk"
	"github.com/holdfast-edge/holdfast/scripts/internal/link"
	"github.com/holdfast-edge/holdfast/scripts/internal/peers"
)

// ordeal is a fault that can be done to any system with a device, a link and a
// broker in the cloud.
type ordeal struct {
	name, about string
	power       bool // it needs a disk whose power can be cut
	does        func(ctx context.Context, p *peers.Peer, card *disk.Cuttable) error
}

// ordeals are done to each in this order.
func ordeals() []ordeal {
	return []ordeal{
		{"uplink-cut", "the device's network refuses and resets for 15 s", false, func(ctx context.Context, p *peers.Peer, _ *disk.Cuttable) error {
			return without(ctx, p, link.Condition{Down: true}, func() error { return pause(ctx, 15*time.Second) })
		}},
		{"uplink-half-open", "the device's network carries nothing and says nothing for 15 s", false, func(ctx context.Context, p *peers.Peer, _ *disk.Cuttable) error {
			return without(ctx, p, link.Condition{Silent: true}, func() error { return pause(ctx, 15*time.Second) })
		}},
		{"device-killed", "SIGKILL of the device's program after 5 s without a network", false, func(ctx context.Context, p *peers.Peer, _ *disk.Cuttable) error {
			return offline(ctx, p, p.Edge.Kill)
		}},
		{"power-cut", "the device's power is cut after 5 s without a network", true, func(ctx context.Context, p *peers.Peer, card *disk.Cuttable) error {
			return offline(ctx, p, func() error {
				card.Cut()
				return errors.Join(p.Edge.Kill(), card.Boot())
			})
		}},
		{"broker-killed", "SIGKILL of the cloud's broker, started again after 3 s", false, func(ctx context.Context, p *peers.Peer, _ *disk.Cuttable) error {
			if err := p.Hub.Kill(); err != nil {
				return err
			}
			return errors.Join(pause(ctx, 3*time.Second), p.Hub.Start())
		}},
	}
}

// without does something while the network is not as it should be.
func without(ctx context.Context, p *peers.Peer, c link.Condition, do func() error) error {
	if err := p.Link.Set(c); err != nil {
		return err
	}
	return errors.Join(ctx.Err(), do(), p.Link.Heal())
}

// offline ends the device's program in an outage, in a way, and starts it again
// in the same.
func offline(ctx context.Context, p *peers.Peer, end func() error) error {
	return without(ctx, p, link.Condition{Down: true}, func() error {
		if err := pause(ctx, 5*time.Second); err != nil {
			return err
		}
		if err := end(); err != nil {
			return err
		}
		if err := p.Edge.Start(); err != nil {
			return err
		}
		if err := p.Ready(ctx); err != nil {
			return err
		}
		return pause(ctx, 3*time.Second)
	})
}
