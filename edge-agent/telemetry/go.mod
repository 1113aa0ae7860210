module github.com/holdfast-edge/holdfast/edge-agent/telemetry

go 1.26
