package loopback

import (
	"net"
	"strconv"
	"testing"
)

// Each address can be listened on, comes once, and lies where no outgoing connection
// is given its port.
func TestAddressesAreFreeAndComeOnce(t *testing.T) {
	var ports Ports
	seen := map[string]bool{}
	for range 50 {
		addr, err := ports.Next()
		if err != nil {
			t.Fatal(err)
		}
		if n, err := strconv.Atoi(Port(addr)); err != nil || n < portFrom || n >= portTo || seen[addr] {
			t.Errorf("%s: %v, seen before: %t", addr, err, seen[addr])
		}
		seen[addr] = true
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := ln.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
