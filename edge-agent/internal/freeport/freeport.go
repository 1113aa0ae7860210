// Package freeport finds addresses for tests that start other programs, or stop a
// server and start it again.
package freeport

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports below the ranges from which Linux (32768) and macOS (49152) take those of
// outgoing connections: nobody else is given one while nobody listens on it.
const from, to = 20_000, 32_000

// Address returns an address on loopback that nobody listens on.
func Address() (string, error) {
	for range 1000 {
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(from+rand.IntN(to-from))))
		if err == nil {
			return ln.Addr().String(), ln.Close()
		}
	}
	return "", errors.New("find a port: none of 1000 tried from 20000 to 32000 is free")
}
