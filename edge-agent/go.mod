module github.com/holdfast-edge/holdfast/edge-agent

go 1.26

require github.com/holdfast-edge/holdfast/edge-agent/telemetry v0.0.0

replace github.com/holdfast-edge/holdfast/edge-agent/telemetry => ./telemetry
