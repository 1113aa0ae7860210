# shellcheck shell=bash
# Sourced by scripts/NAME: builds the Go program scripts/cmd/NAME from the module scripts alone and becomes it. Becoming it
# (exec, not `go run`) makes signals and the exit status its own.
set -euo pipefail
name=$(basename "$0")
here=$(cd "$(dirname "${BASH_SOURCE[1]}")" && pwd)
if ! command -v go >/dev/null; then
  echo "$name: the go command is not in PATH; install Go 1.26 or later from https://go.dev/dl/" >&2
  exit 2
fi
bin=$here/../.cache/bin/scripts-$name
[ -x "$bin" ] || echo "building scripts/$name" >&2
(cd "$here" && GOWORK=off CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$bin" "./cmd/$name")
export HOLDFAST_ROOT=$here/..
exec "$bin" "$@"
