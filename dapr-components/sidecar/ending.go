package main

import (
	"context"

	"github.com/dapr/dapr/pkg/healthz"
)

// ending tells when the runtime begins to end, by the first of its parts that is no longer ready; no part of it says so before.
//
// The runtime needs to hear that itself: a shutdown that was asked for through its API waits for every streaming subscription, and those wait
// for the end of the context that the runtime was made with. The agent keeps one open for its receipts, so neither would ever come.
type ending struct {
	healthz.Healthz
	begin context.CancelFunc
}

// AddTarget returns a target whose end is told.
func (e ending) AddTarget(name string) healthz.Target {
	return part{e.Healthz.AddTarget(name), e.begin}
}

type part struct {
	healthz.Target
	end context.CancelFunc
}

// NotReady is what a server of the runtime says of itself before it waits for its last calls.
func (p part) NotReady() {
	p.Target.NotReady()
	p.end()
}
