#!/bin/sh
# Generates internal/wire from v1/telemetry.proto. Needs protoc (Debian:
# protobuf-compiler); protoc-gen-go is built here at the version go.mod names.
set -eu
cd "$(dirname "$0")/.."
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
GOBIN=$tools go install google.golang.org/protobuf/cmd/protoc-gen-go
protoc --plugin="$tools/protoc-gen-go" --go_out=internal/wire \
	--go_opt=module=github.com/holdfast-edge/holdfast/edge-agent/telemetry/internal/wire v1/telemetry.proto
