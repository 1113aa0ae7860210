package freeport

import (
	"net"
	"testing"
)

// An address can be listened on, and again after that, and no outgoing connection
// is given its port.
func TestAddressStaysFree(t *testing.T) {
	addr, err := Address()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if port := ln.Addr().(*net.TCPAddr).Port; port < from || port >= to {
			t.Errorf("port %d", port)
		}
		if err := ln.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
