module github.com/holdfast-edge/holdfast/scripts

go 1.26.0

require (
	github.com/holdfast-edge/holdfast/edge-agent v0.0.0
	golang.org/x/crypto v0.58.0
)

require (
	github.com/hanwen/go-fuse/v2 v2.12.1 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace (
	github.com/holdfast-edge/holdfast/edge-agent => ../edge-agent
	github.com/holdfast-edge/holdfast/edge-agent/telemetry => ../edge-agent/telemetry
)
