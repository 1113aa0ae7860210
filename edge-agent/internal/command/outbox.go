package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	ob "github.com/holdfast-edge/holdfast/edge-agent/internal/outbox"
)

const outboxHelp = `Looks into an outbox while no agent uses it, on the device or on a card in a reader.
Changes nothing.

  edge-agent outbox stats  --config FILE   what is in it, by epoch
  edge-agent outbox verify --config FILE   read every record; exit code 1 when one is damaged
  edge-agent outbox export --dir DIR       every record as a line of JSON, payloads included`

// outbox shows payloads only with export: whoever may read the folder may read them.
func outbox(_ context.Context, e *Env, args []string) error {
	verbs := map[string]func(string, io.Writer) error{"stats": ob.PrintStats, "verify": ob.Verify, "export": ob.Export}
	f := e.flags("outbox", outboxHelp)
	path := f.String("config", "", "settings `FILE` (YAML), for outbox.dir")
	dir := f.String("dir", "", "the outbox's `FOLDER`, in place of outbox.dir")
	var verb func(string, io.Writer) error
	if len(args) > 0 {
		if verb = verbs[args[0]]; verb != nil {
			args = args[1:]
		}
	}
	if verb == nil && !slices.ContainsFunc(args, func(a string) bool { return a == "-h" || a == "--help" || a == "-help" }) {
		return wrong("want edge-agent outbox stats, verify or export; see outbox --help")
	}
	if err := f.parse(args, 0); err != nil {
		return err
	}
	if *dir == "" {
		c, _, err := e.load(*path)
		if err != nil {
			return err
		}
		*dir = c.Outbox.Dir
	}
	out := bufio.NewWriter(e.Stdout)
	err := errors.Join(verb(*dir, out), out.Flush())
	if errors.Is(err, ob.ErrLocked) {
		return fmt.Errorf("%w: stop the agent first (systemctl stop edge-agent), or ask it with edge-agent status", err)
	}
	return err
}
