package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/build"
	"github.com/holdfast-edge/holdfast/scripts/internal/deb"
	"github.com/holdfast-edge/holdfast/scripts/internal/disk"
	"github.com/holdfast-edge/holdfast/scripts/internal/guest"
	"github.com/holdfast-edge/holdfast/scripts/internal/loopback"
	"github.com/holdfast-edge/holdfast/scripts/internal/piimage"
	"github.com/holdfast-edge/holdfast/scripts/internal/repo"
	"github.com/holdfast-edge/holdfast/scripts/internal/stack"
)

// host is this machine as the guest sees it.
const host = "10.0.2.2"

// prepare builds what is missing and starts broker and cloud.
func (r *rig) prepare(ctx context.Context) (err error) {
	for _, program := range []string{guest.Program, "ssh", "ssh-keygen", "debugfs", "e2fsck"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is not installed; --help lists what is needed", program)
		}
	}
	if r.root, err = repo.Root(); err != nil {
		return err
	}
	memory := filepath.Join(r.dir, "card")
	if r.disk, err = disk.Power(memory, r.seed); err != nil {
		return fmt.Errorf("the disk that the card lies on: %w", err)
	}
	r.card = filepath.Join(memory, "card.img")
	images, err := piimage.Get(ctx, r.screen)
	if err != nil {
		return err
	}
	r.images.cloudInit, r.images.firstRun = images.CloudInit, images.FirstRun
	builder := build.Builder{Root: r.root, Out: r.screen, TTY: r.screen.TTY()}
	if err := r.programs(ctx, builder); err != nil {
		return err
	}
	if err := r.secrets(ctx); err != nil {
		return err
	}
	paths, err := builder.Build(ctx, stack.Programs()...)
	if err != nil {
		return err
	}
	var ports loopback.Ports
	for _, p := range []*string{&r.ports.mqtt, &r.ports.ssh} {
		if *p, err = ports.Next(); err != nil {
			return err
		}
	}
	r.screen.Event("starting broker and cloud (cards, consoles and logs: %s)", r.dir)
	r.cloud, err = stack.Start(ctx, stack.Options{Root: r.root, Dir: filepath.Join(r.dir, "cloud"), Programs: paths, NoEdge: true})
	if err != nil {
		return err
	}
	r.cloud.Edge.Link, err = r.cloud.Link(r.cloud.Broker.Addr)
	return err
}

// programs builds flash and two packages of one checkout, the second of a later
// version.
func (r *rig) programs(ctx context.Context, b build.Builder) error {
	paths, err := b.Build(ctx, build.Program{Name: "scripts-flash", Dir: "scripts", Package: "./cmd/flash"})
	if err != nil {
		return err
	}
	r.flash = paths["scripts-flash"]
	if r.old != "" && r.new != "" {
		return nil
	}
	version, err := deb.Version(ctx, r.root)
	if err != nil {
		return err
	}
	for to, v := range map[*string]string{&r.old: version, &r.new: version + ".1"} {
		if *to, err = deb.Build(ctx, b, deb.ARM64, v, filepath.Join(r.dir, "packages")); err != nil {
			return err
		}
	}
	return nil
}

func (r *rig) secrets(ctx context.Context) error {
	r.key, r.password = filepath.Join(r.dir, "id"), rand.Text()
	if err := os.Remove(r.key); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", r.key).CombinedOutput(); err != nil {
		return fmt.Errorf("make an SSH key: %w: %s", err, out)
	}
	return os.WriteFile(filepath.Join(r.dir, "password"), []byte(r.password+"\n"), 0o600)
}

// write flashes an image to the card, as a user would.
func (r *rig) write(ctx context.Context, image, name string, more ...string) error {
	token, err := r.cloud.Token(ctx, name)
	if err != nil {
		return err
	}
	if !slices.Contains(r.agents, name) {
		r.agents = append(r.agents, name)
	}
	tokenFile := filepath.Join(r.dir, "token")
	if err := os.WriteFile(tokenFile, []byte(token), 0o600); err != nil {
		return err
	}
	args := append([]string{
		"--image", image, "--output", r.card, "--agent", name, "--package", r.old,
		"--cloud", r.cloudURL(), "--token-file", tokenFile,
		"--broker-url", r.brokerURL(),
		"--mqtt-user", "sensors", "--mqtt-password-file", filepath.Join(r.dir, "password"),
		"--ssh-key", r.key + ".pub", "--timezone", "Europe/Berlin",
	}, more...)
	defer r.watch(time.Now(), "flashing")()
	cmd := exec.CommandContext(ctx, r.flash, args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "HOLDFAST_ROOT="+r.root)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("flash: %w: %s", err, out)
	}
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	r.screen.Event("flash: %s", lines[max(0, len(lines)-2)])
	return nil
}

// cloudURL and brokerURL are where the guest finds them.
func (r *rig) cloudURL() string {
	return "http://" + onHost(strings.TrimPrefix(r.cloud.Cloud.URL, "http://"))
}
func (r *rig) brokerURL() string { return "nats://" + onHost(r.cloud.Edge.Link.Addr()) }

// onHost is an address of this machine for the guest.
func onHost(addr string) string {
	_, port, _ := net.SplitHostPort(addr) // ours always has one
	return net.JoinHostPort(host, port)
}
