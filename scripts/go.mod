module github.com/holdfast-edge/holdfast/scripts

go 1.26.0

require (
	github.com/diskfs/go-diskfs v1.9.4
	github.com/holdfast-edge/holdfast/edge-agent v0.0.0
	github.com/klauspost/compress v1.20.3
	github.com/nats-io/nats.go v1.55.0
	github.com/ulikunitz/xz v0.5.17
	golang.org/x/crypto v0.58.0
	golang.org/x/sys v0.49.0
)

require (
	github.com/elliotwutingfeng/asciiset v0.0.0-20260129054604-cfde2086bc57 // indirect
	github.com/hanwen/go-fuse/v2 v2.12.1 // indirect
	github.com/nats-io/nkeys v0.4.16 // indirect
	github.com/nats-io/nuid v1.0.1 // indirect
)

replace (
	github.com/holdfast-edge/holdfast/edge-agent => ../edge-agent
	github.com/holdfast-edge/holdfast/edge-agent/telemetry => ../edge-agent/telemetry
)
