package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// relay is a fixed address in front of the agent's MQTT port, wherever its pod is now. It carries bytes and answers for nothing: what a sensor
// reads through it came from the agent.
type relay struct {
	listen net.Listener
	find   func(ctx context.Context) ([]string, error)
	all    sync.WaitGroup
}

func newRelay(find func(ctx context.Context) ([]string, error)) (*relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &relay{listen: l, find: find}, nil
}

func (r *relay) address() string { return r.listen.Addr().String() }

func (r *relay) run(ctx context.Context) {
	defer context.AfterFunc(ctx, func() { _ = r.listen.Close() })()
	for {
		conn, err := r.listen.Accept()
		if err != nil {
			break
		}
		r.all.Go(func() { r.carry(ctx, conn) })
	}
	r.all.Wait()
}

func (r *relay) carry(ctx context.Context, sensor net.Conn) {
	defer sensor.Close()
	agent, err := r.dial(ctx)
	if err != nil {
		return // the sensor sees its connection end, and tries again
	}
	defer agent.Close()
	defer context.AfterFunc(ctx, func() { _, _ = sensor.Close(), agent.Close() })()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{sensor, agent}, {agent, sensor}} {
		both.Go(func() {
			_, _ = io.Copy(way[1], way[0])
			_, _ = sensor.Close(), agent.Close()
		})
	}
	both.Wait()
}

func (r *relay) dial(ctx context.Context) (net.Conn, error) {
	addresses, err := r.find(ctx)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: time.Second}
	for _, a := range addresses {
		conn, err := d.DialContext(ctx, "tcp", a)
		if err == nil {
			return conn, nil
		}
	}
	return nil, errors.New("nobody answers at " + strings.Join(addresses, ", "))
}

// mqttAddresses are where sensors of the node publish: the pod's own address, where this machine has a route to it, and the node's port.
func (t *test) mqttAddresses(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	app := "edge-agent"
	if t.mosquitto {
		app = "mosquitto"
	}
	p, err := theOnly(ctx, edgeNamespace, app)
	if err != nil {
		return nil, err
	}
	var list []string
	if p.ip != "" {
		list = append(list, net.JoinHostPort(p.ip, "1883"))
	}
	return append(list, fmt.Sprintf("%s:31883", t.nodeAddress)), nil
}
