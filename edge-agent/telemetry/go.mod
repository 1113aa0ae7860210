module github.com/holdfast-edge/holdfast/edge-agent/telemetry

go 1.26

require (
	github.com/klauspost/compress v1.20.3
	google.golang.org/protobuf v1.36.12
)
