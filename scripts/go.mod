module github.com/holdfast-edge/holdfast/scripts

go 1.26

require github.com/holdfast-edge/holdfast/edge-agent v0.0.0

replace (
	github.com/holdfast-edge/holdfast/edge-agent => ../edge-agent
	github.com/holdfast-edge/holdfast/edge-agent/telemetry => ../edge-agent/telemetry
)
