// Command edge-agent takes MQTT readings in on an edge device, keeps them on its
// disk and sends them to the cloud until the cloud's database has them.
package main

import (
	"context"
	"os"
	"runtime/debug"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/command"
)

// version is set by -ldflags "-X main.version=1.2.3"; a plain build shows the
// commit.
var version string

func main() {
	os.Exit(command.Run(context.Background(), &command.Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Environ: os.Environ(), Version: versionText(),
	}, os.Args[1:]))
}

func versionText() string {
	info, ok := debug.ReadBuildInfo()
	if version != "" || !ok {
		return version
	}
	commit, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	if commit == "" {
		return "development"
	}
	return commit + dirty
}
