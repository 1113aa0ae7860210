// Command daprd is Dapr's own runtime with only the components that Holdfast uses, made tolerant of a broker that is not there.
//
// It takes the same flags as Dapr's daprd and serves the same APIs; what it leaves out is listed in the README of this folder.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/dapr/dapr/cmd/daprd/options"
	"github.com/dapr/dapr/pkg/healthz"
	"github.com/dapr/dapr/pkg/modes"
	"github.com/dapr/dapr/pkg/runtime"
	"github.com/dapr/dapr/pkg/security"
	"github.com/dapr/kit/concurrency"
	"github.com/dapr/kit/logger"
	"github.com/dapr/kit/signals"
	"go.uber.org/automaxprocs/maxprocs"

	"github.com/holdfast-edge/holdfast/dapr-components/sidecar/internal/memory"
)

func main() {
	_, _ = maxprocs.Set() // Without a CPU quota to read, Go's own choice stands.
	opts, err := options.New(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "daprd:", err)
		os.Exit(2)
	}
	if opts.RuntimeVersion || opts.BuildInfo {
		fmt.Println(version())
		return
	}
	if opts.WaitCommand {
		runtime.WaitUntilDaprOutboundReady(opts.DaprHTTPPort)
		return
	}
	if err := run(signals.Context(), opts); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "daprd:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends or the runtime fails. It returns nil after a graceful shutdown.
func run(ctx context.Context, opts *options.Options) error {
	opts.Logger.SetAppID(opts.AppID)
	if err := logger.ApplyOptionsToLoggers(&opts.Logger); err != nil {
		return fmt.Errorf("apply log options: %w", err)
	}
	log := logger.NewLogger("dapr.runtime")
	log.Infof("Starting %s", version())

	hz := healthz.New()
	provider, err := security.New(ctx, security.Options{
		SentryAddress:           opts.SentryAddress,
		ControlPlaneTrustDomain: opts.ControlPlaneTrustDomain,
		ControlPlaneNamespace:   opts.ControlPlaneNamespace,
		TrustAnchors:            opts.TrustAnchors,
		AppID:                   opts.AppID,
		MTLSEnabled:             opts.EnableMTLS,
		Mode:                    modes.DaprMode(opts.Mode),
		Healthz:                 hz,
		JwtAudiences:            opts.SentryRequestJwtAudiences,
	})
	if err != nil {
		return fmt.Errorf("prepare mTLS: %w", err)
	}
	serve := func(ctx context.Context) error {
		sec, err := provider.Handler(ctx)
		if err != nil {
			return fmt.Errorf("wait for mTLS: %w", err)
		}
		ctx, end := context.WithCancel(ctx)
		defer end()
		rt, err := runtime.FromConfig(ctx, runtimeConfig(opts, components(), sec, ending{hz, end}, log))
		if err != nil {
			return fmt.Errorf("build runtime: %w", err)
		}
		return rt.Run(ctx)
	}
	trim := func(ctx context.Context) error { return memory.Trim(ctx, log) }
	return concurrency.NewRunnerManager(provider.Run, serve, trim).Run(ctx)
}
