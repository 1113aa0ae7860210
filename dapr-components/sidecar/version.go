package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version names this build and the Dapr runtime in it, as the Go toolchain recorded them.
func version() string {
	ours, dapr := "(unknown)", "(unknown)"
	if info, ok := debug.ReadBuildInfo(); ok {
		ours = info.Main.Version
		for _, m := range info.Deps {
			if m.Path == "github.com/dapr/dapr" {
				dapr = m.Version
			}
		}
	}
	return fmt.Sprintf("holdfast daprd %s (dapr %s, %s, %s/%s)", ours, dapr, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
