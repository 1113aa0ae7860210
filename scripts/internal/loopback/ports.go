// Package loopback chooses addresses on this machine for programs that are started,
// killed and started again.
package loopback

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// portFrom and portTo lie below the ranges from which Linux (32768) and macOS
// (49152) take the ports of outgoing connections: nobody grabs the port of a
// program that is killed before it is started again.
const (
	portFrom = 20000
	portTo   = 32000
)

// Ports hands out addresses on loopback that nobody listens on, each one once.
type Ports struct{ used map[int]bool }

// Next returns one more address.
func (p *Ports) Next() (addr string, err error) {
	if p.used == nil {
		p.used = map[int]bool{}
	}
	for range 1000 {
		port := portFrom + rand.IntN(portTo-portFrom)
		if p.used[port] {
			continue
		}
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		p.used[port] = true
		return ln.Addr().String(), ln.Close()
	}
	return "", errors.New("find a port: none of 1000 tried from 20000 to 32000 is free")
}

// Fill puts an address into each of the strings.
func (p *Ports) Fill(addrs ...*string) error {
	for _, a := range addrs {
		addr, err := p.Next()
		if err != nil {
			return fmt.Errorf("choose ports: %w", err)
		}
		*a = addr
	}
	return nil
}

// Port returns the port of an address, which must have one.
func Port(addr string) string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		panic(fmt.Sprintf("BUG: address %q has no port", addr))
	}
	return port
}
