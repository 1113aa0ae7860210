package command

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/agent"
	"github.com/holdfast-edge/holdfast/edge-agent/internal/drill"
)

const drillHelp = `Proves with the running agent that what it stores arrives: cuts its uplink for some
seconds, stores messages under a topic of their own (holdfast/drill/...) and restarts
it while they are on this device alone; sensors need not notice more than a short
reconnect. Then it waits until the cloud's signed receipts cover every message, and
prints a report with those receipts. It refuses while the device has an outage, a
backlog or too little room.

  edge-agent drill --config FILE > report.json
  edge-agent drill verify --config FILE report.json

Exit code 0: proven.`

const verifyHelp = `Checks a report of edge-agent drill: the cloud's receipts in it are signed by the root key
that this device pinned when it enrolled, and cover every message of the drill.`

func drillOrVerify(ctx context.Context, e *Env, args []string) error {
	if len(args) > 0 && args[0] == "verify" {
		return drillVerify(e, args[1:])
	}
	f := e.flags("drill", drillHelp)
	path := f.String("config", "", "settings `FILE` of the running agent")
	messages := f.Int("messages", 200, "messages before the restart, and as many after it")
	cut := f.Duration("cut", 10*time.Second, "how long the uplink is cut, at most a minute")
	patience := f.Duration("patience", 3*time.Minute, "how long to wait for the agent, and for each receipt")
	if err := f.parse(args, 0); err != nil {
		return err
	}
	if *messages < 1 || *messages > drill.MaxMessages || *cut < time.Second || *cut > drill.MaxCut || *patience < time.Second {
		return wrong("want --messages from 1 to %d, --cut from 1s to %v, --patience from 1s", drill.MaxMessages, drill.MaxCut)
	}
	c, _, err := e.load(*path)
	if err != nil {
		return err
	}
	known, err := agent.Enrolled(c.Data)
	if err != nil {
		return fmt.Errorf("refused: only an enrolled agent can prove anything: %w", err)
	}
	report, err := drill.Run(ctx, drill.Plan{
		Dir: c.Data, Agent: c.Agent, Root: known.Root, Messages: *messages, Cut: *cut, Patience: *patience,
		Say: func(format string, args ...any) { _, _ = fmt.Fprintf(e.Stderr, format+"\n", args...) },
	})
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(e.Stdout, "%s\n", text); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(e.Stderr, proven(report, report.Cloud)) // the report is out already
	return nil
}

func drillVerify(e *Env, args []string) error {
	f := e.flags("drill verify", verifyHelp)
	path := f.String("config", "", "settings `FILE` of the agent")
	if err := f.parse(args, 1); err != nil {
		return err
	}
	c, _, err := e.load(*path)
	if err != nil {
		return err
	}
	known, err := agent.Enrolled(c.Data)
	if err != nil {
		return err
	}
	report, err := readReport(f.Arg(0))
	if err != nil {
		return err
	}
	return verified(e.Stdout, report, known.Root)
}

func verified(w io.Writer, report drill.Report, root ed25519.PublicKey) error {
	cloud, err := drill.Verify(report, root)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, proven(report, cloud))
	return err
}

func readReport(path string) (r drill.Report, err error) {
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		err = fmt.Errorf("read report %s: %w", path, err)
	}
	return r, err
}

func proven(r drill.Report, cloud string) string {
	return fmt.Sprintf("proven: cloud %s has all %d messages of %s, signed in %d receipts", cloud, r.Messages, r.Agent, len(r.Receipts))
}
