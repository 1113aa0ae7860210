package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// node says what makes a node: what is installed, what runs, what is set, and who
// may read it.
const node = `dpkg-query -W -f '${Status}\n' holdfast-edge
systemctl is-enabled holdfast-agent holdfast-sidecar
systemctl is-active holdfast-agent holdfast-sidecar
stat -c '%n %a %U:%G' /etc/holdfast /etc/holdfast/* /var/lib/holdfast /var/lib/holdfast/agent.key /var/lib/holdfast/enrolment.json /var/lib/holdfast/outbox
sed -n 's/=.*//p' /etc/holdfast/node.env | sort`

// byHand purges the package, installs it as its README says, and looks whether that
// is the same node.
func (r *rig) byHand(ctx context.Context) error {
	if err := r.ensure(ctx); err != nil {
		return err
	}
	wait, cancel, err := r.reach(ctx)
	defer cancel()
	if err != nil {
		return err
	}
	flashed, err := r.guest.Run(wait, node, nil)
	if err != nil {
		return err
	}
	if left, err := r.guest.Run(wait, "dpkg -P holdfast-edge >&2; ls -d /etc/holdfast /var/lib/holdfast 2>/dev/null || true", nil); err != nil || left != "" {
		return errors.Join(err, fmt.Errorf("a purge left %q", left))
	}
	if err := r.follow(wait); err != nil {
		return err
	}
	if err := r.flows(ctx); err != nil {
		return err
	}
	err = r.until(ctx, stepLimit, "the same node as by flashing", func() error {
		installed, err := r.guest.Run(wait, node, nil)
		if err == nil && installed != flashed {
			err = fmt.Errorf("installed by hand:\n%s\nflashed:\n%s", installed, flashed)
		}
		return err
	})
	if err != nil {
		return err
	}
	return r.finish(ctx)
}

// follow installs the package and does what its README says, with the names of
// this test.
func (r *rig) follow(ctx context.Context) error {
	const name = "greenhouse-3" // a purge takes the key: this is another agent
	token, err := r.cloud.Token(ctx, name)
	if err != nil {
		return err
	}
	readme, err := os.ReadFile(filepath.Join(r.root, "edge-agent", "packaging", "README.md"))
	if err != nil {
		return err
	}
	steps := strings.NewReplacer(
		"greenhouse-1", name, "https://cloud.example.com", r.cloudURL(), "tls://nats.example.com:4222", r.brokerURL(),
	).Replace(block(string(readme), "By hand, a node"))
	for name, text := range map[string]string{"token": token, "password": r.password + "\n", "steps": "set -eu\n" + steps} {
		path := filepath.Join(r.dir, "by-hand-"+name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
		if err := r.copy(ctx, path, "/root/"+name); err != nil {
			return err
		}
	}
	if err := r.copy(ctx, r.old, "/var/tmp/old.deb"); err != nil {
		return err
	}
	defer r.watch(time.Now(), "installing by hand")()
	if _, err := r.guest.Run(ctx, "cd /root && DEBIAN_FRONTEND=noninteractive dpkg -i /var/tmp/old.deb && sh steps <password", nil); err != nil {
		return err
	}
	r.agents = append(r.agents, name)
	r.screen.Event("installed by hand, as the package's README says")
	return nil
}

// block returns the indented lines that follow the first line that begins so.
func block(text, begin string) string {
	var b strings.Builder
	_, after, _ := strings.Cut(text, "\n"+begin)
	_, after, _ = strings.Cut(after, "\n")
	for line := range strings.Lines(after) {
		code, ok := strings.CutPrefix(line, "    ")
		switch {
		case ok:
			b.WriteString(code)
		case strings.TrimSpace(line) != "":
			return b.String()
		}
	}
	return b.String()
}
