// Package v1 holds the schema of the wire format, version 1. The code that is
// generated from it is in internal/wire.
package v1

//go:generate sh generate.sh
