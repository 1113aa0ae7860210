package postgres

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// crashLimit is how long a server may take to end after being told to crash.
const crashLimit = 20 * time.Second

// Crash ends the primary without a checkpoint or a goodbye. Its Start starts it
// again.
func (c *Cluster) Crash() error { return c.crash(c.Primary) }

// crash sends SIGQUIT, because SIGKILL would leave the server's children to
// notice by themselves, and with them the port.
func (c *Cluster) crash(n *Node) error { return n.End(syscall.SIGQUIT, crashLimit) }

// FailOver crashes the primary for good and promotes the standby, which becomes
// the primary. There is no standby then until Rebuild.
func (c *Cluster) FailOver(ctx context.Context) error {
	if err := c.Crash(); err != nil {
		return fmt.Errorf("fail over: %w", err)
	}
	if _, err := c.o.Programs.run(ctx, "pg_ctl", "promote", "-w", "-t", "60", "-D", c.Standby.dir); err != nil {
		return fmt.Errorf("fail over: %w", err)
	}
	c.Primary, c.Standby = c.Standby, c.Primary
	return c.Ready(ctx)
}

// Rebuild makes the standby anew from the primary.
func (c *Cluster) Rebuild(ctx context.Context) error {
	if err := c.crash(c.Standby); err != nil {
		return fmt.Errorf("rebuild standby: %w", err)
	}
	if err := os.RemoveAll(c.Standby.dir); err != nil {
		return fmt.Errorf("rebuild standby: %w", err)
	}
	if err := c.copy(ctx, c.Standby.dir, "-R"); err != nil {
		return fmt.Errorf("rebuild standby: %w", err)
	}
	if err := c.Standby.Start(); err != nil {
		return fmt.Errorf("rebuild standby: %w", err)
	}
	return c.ready(ctx, c.Standby)
}

// Backup copies the primary while it runs and returns the folder.
func (c *Cluster) Backup(ctx context.Context) (string, error) {
	c.made++
	to := filepath.Join(c.o.Dir, fmt.Sprintf("backup-%d", c.made))
	return to, c.copy(ctx, to)
}

// Restore puts a backup in the place of the primary's data, and starts it. The
// backup is used up. The standby has to be rebuilt.
func (c *Cluster) Restore(ctx context.Context, backup string) error {
	for _, n := range []*Node{c.Standby, c.Primary} {
		if err := c.crash(n); err != nil {
			return fmt.Errorf("restore backup: %w", err)
		}
	}
	if err := os.RemoveAll(c.Primary.dir); err != nil {
		return fmt.Errorf("restore backup: %w", err)
	}
	if err := os.Rename(backup, c.Primary.dir); err != nil {
		return fmt.Errorf("restore backup: %w", err)
	}
	if err := c.Primary.Start(); err != nil {
		return fmt.Errorf("restore backup: %w", err)
	}
	return c.Ready(ctx)
}

func (c *Cluster) copy(ctx context.Context, to string, more ...string) error {
	args := append(c.at(c.Primary, "-D", to, "-X", "stream", "-c", "fast", "--no-sync"), more...)
	_, err := c.o.Programs.run(ctx, "pg_basebackup", args...)
	return err
}
