module github.com/holdfast-edge/holdfast/scripts

go 1.26.0

require golang.org/x/crypto v0.58.0

replace (
	github.com/holdfast-edge/holdfast/edge-agent => ../edge-agent
	github.com/holdfast-edge/holdfast/edge-agent/telemetry => ../edge-agent/telemetry
)
