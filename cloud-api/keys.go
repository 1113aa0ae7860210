package main

import (
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/config"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/keys"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// keysCommand shows and replaces the cloud's signing keys. It works on the folder
// alone: no server has to run, and one that does follows.
func keysCommand(args, environ []string, out, errOut io.Writer) error {
	verbs := map[string]func(dir string, now time.Time, out io.Writer) error{"list": listKeys, "renew": renewKey, "rotate-root": rotateRoot}
	if len(args) == 0 || verbs[args[0]] == nil {
		return fmt.Errorf("%w: cloud-api keys list|renew|rotate-root", errUsage)
	}
	return withConfig("keys "+args[0], args[1:], environ, errOut, nil, func(c config.Config, _ *slog.Logger) error {
		return verbs[args[0]](c.Keys.Dir, time.Now(), out)
	})
}

func listKeys(dir string, now time.Time, out io.Writer) error {
	list, err := keys.List(dir, now)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, e := range list {
		role, state, span := "root", "", "the first root"
		if e.Role == telemetry.RoleReceipt {
			role = "receipt key"
		}
		switch {
		case e.InUse:
			state = "in use"
		case e.Role == telemetry.RoleRoot:
			state = "replaced"
		}
		if !e.From.IsZero() {
			span = e.From.Format(time.DateOnly) + " to " + e.Until.Format(time.DateOnly)
		}
		if _, err := fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", role, e.Fingerprint, span, state); err != nil {
			return err
		}
	}
	return w.Flush()
}

func renewKey(dir string, now time.Time, out io.Writer) error {
	ring, err := keys.Open(dir, now)
	if err != nil {
		return err
	}
	s, err := keys.Renew(dir, ring.Root, now)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "new receipt key %s, good until %s; a running server signs with it within seconds\n",
		telemetry.Fingerprint(s.Chain[0].Key), s.Chain[0].NotAfter.Format(time.DateOnly))
	return err
}

func rotateRoot(dir string, now time.Time, out io.Writer) error {
	ring, err := keys.RotateRoot(dir, now)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, `new root %s
Devices that know an older root trust it by the certificates in every receipt, when
they next hear one. Now: keep a copy of root.key in a safe place, give other replicas
this folder, and make enrolment tokens anew that nobody has used yet.
`, ring.Fingerprint())
	return err
}
