// Package guest runs a card in QEMU as if it were in a Raspberry Pi: kernel,
// initial RAM disk and command line are read from its boot partition at each
// start, as a Pi's firmware does. The plug can be pulled, and the network too.
package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
	"github.com/diskfs/go-diskfs/partition/mbr"

	"github.com/holdfast-edge/holdfast/scripts/internal/process"
)

// Program is what emulates the machine.
const Program = "qemu-system-aarch64"

// emulated is what the kernel is told beside cmdline.txt: an emulated machine on a
// busy one wants patience, and no work that only a real one needs.
const emulated = "systemd.default_timeout_start_sec=900 " + // a device may take minutes to appear
	"nosoftlockup rcupdate.rcu_cpu_stall_suppress=1 " + // two busy processors are no fault of the guest
	"kpti=off mitigations=off nokaslr audit=0 apparmor=0 " + // page tables changed at each system call cost an emulator most of all
	// Drivers that QEMU has no device for, and logins on a console where nobody types.
	"systemd.mask=modprobe@configfs.service systemd.mask=modprobe@dm_mod.service systemd.mask=modprobe@drm.service " +
	"systemd.mask=modprobe@efi_pstore.service systemd.mask=modprobe@fuse.service systemd.mask=modprobe@loop.service systemd.mask=getty.target " +
	"quiet systemd.show_status=yes systemd.status_unit_format=name console=ttyAMA0" // each letter on the serial port has its price

// Options say how to run a card.
type Options struct {
	Group     *process.Group
	Card      string // file of the whole card; the guest writes to it
	Dir       string // for kernel, console and socket
	Name      string // of this start, for the console's file: consoles are kept
	MQTT      string // HOST:PORT on this machine that leads to the guest's 1883
	SSH       string // the same for 22
	Key       string // private key of the user pi
	Unplugged bool   // start with the network cable pulled
	Command   string // in addition to cmdline.txt
	Clock     string // what the board's clock says; empty: the right time
	Forgets   bool   // the card takes every write, says that it flushed it, and keeps none when the plug is pulled
}

// Guest is a card that runs.
type Guest struct {
	o       Options
	process *process.Process
	console string
}

// Start switches a card on. It returns at once, when nothing is up yet.
func Start(o Options) (*Guest, error) {
	g := &Guest{o: o, console: filepath.Join(o.Dir, o.Name+".console")}
	command, err := firmware(o.Card, o.Dir)
	if err != nil {
		return nil, fmt.Errorf("read the boot partition of %s: %w", o.Card, err)
	}
	// QEMU's serial port has another name than a Pi's, and is to be the console that units write to.
	command = strings.ReplaceAll(command, "console=serial0,115200 ", "") + " " + o.Command + " " + emulated
	forward := fmt.Sprintf("user,id=net,hostfwd=tcp:%s-:1883,hostfwd=tcp:%s-:22", o.MQTT, o.SSH)
	args := []string{
		"-M", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", "1024", "-display", "none", "-no-reboot",
		"-kernel", filepath.Join(o.Dir, "kernel8.img"), "-initrd", filepath.Join(o.Dir, "initramfs8"), "-append", command,
		// A flush of the guest's becomes a flush of the file: what the file's disk makes of one is the caller's.
		"-drive", "if=none,id=card,format=raw,cache=writeback,snapshot=" + map[bool]string{true: "on", false: "off"}[o.Forgets] + ",file=" + o.Card, "-device", "virtio-blk-pci,drive=card,discard=off,write-zeroes=off",
		"-netdev", forward, "-device", "virtio-net-pci,netdev=net,id=nic", "-device", "virtio-rng-pci",
		"-serial", "file:" + g.console, "-qmp", "unix:" + g.socket() + ",server=on,wait=off",
	}
	if o.Clock != "" {
		args = append(args, "-rtc", "base="+o.Clock)
	}
	if o.Unplugged {
		args = append(args, "-S") // the cable is pulled before the first instruction
	}
	g.process, err = o.Group.Start(process.Spec{Name: "qemu " + o.Name, Path: Program, Args: args, Dir: o.Dir, Log: filepath.Join(o.Dir, o.Name+".qemu")})
	if err != nil {
		return nil, err
	}
	if o.Unplugged {
		return g, g.commands(`{"execute":"set_link","arguments":{"name":"nic","up":false}}`, `{"execute":"cont"}`)
	}
	return g, nil
}

func (g *Guest) socket() string { return filepath.Join(g.o.Dir, g.o.Name+".qmp") }

// Plug puts the network cable in.
func (g *Guest) Plug() error {
	return g.commands(`{"execute":"set_link","arguments":{"name":"nic","up":true}}`)
}

// Kill pulls the power plug.
func (g *Guest) Kill() error { return g.process.Kill() }

// Done is closed when the guest went off by itself, such as for a restart.
func (g *Guest) Done() <-chan struct{} { return g.process.Done() }

// Console returns what the guest's serial port has said.
func (g *Guest) Console() string {
	b, err := os.ReadFile(g.console)
	if err != nil {
		return "" // nothing yet
	}
	return decoration.ReplaceAllString(string(b), "")
}

// decoration is what a console's output has beside its text: colours, and \r.
var decoration = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]|\r")

// Tail returns the end of the console.
func (g *Guest) Tail(lines int) string {
	all := strings.Split(strings.TrimSpace(g.Console()), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Await waits until the console says text. It fails when the guest goes off
// before, and when ctx ends.
func (g *Guest) Await(ctx context.Context, text string) error {
	for {
		if strings.Contains(g.Console(), text) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: no %q on the console: %w; its end:\n%s", g.o.Name, text, ctx.Err(), g.Tail(25))
		case <-g.Done():
			if strings.Contains(g.Console(), text) {
				return nil
			}
			return fmt.Errorf("%s: it went off before it said %q; end of the console:\n%s\n%s", g.o.Name, text, g.Tail(25), g.process.Tail(5))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Run runs a shell command in the guest as root and returns what it printed.
func (g *Guest) Run(ctx context.Context, command string, stdin *os.File) (string, error) {
	host, port, err := net.SplitHostPort(g.o.SSH)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "ssh", "-q", "-i", g.o.Key, "-p", port, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "pi@"+host, "sudo sh -c "+shellQuote(command))
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if stdin != nil {
		cmd.Stdin = stdin
	}
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %q: %w: %s%s", g.o.Name, command, err, out.Bytes(), complaint.Bytes())
	}
	return strings.TrimSpace(out.String()), nil
}

// Reachable waits until the guest lets us in.
func (g *Guest) Reachable(ctx context.Context) error {
	for {
		_, err := g.Run(ctx, "true", nil)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, fmt.Errorf("end of the console:\n%s", g.Tail(25)))
		case <-g.Done():
			return fmt.Errorf("%s went off: %w", g.o.Name, err)
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// commands gives orders to QEMU itself.
func (g *Guest) commands(orders ...string) error {
	conn, err := dial(g.socket())
	if err != nil {
		return fmt.Errorf("reach QEMU: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	answers := json.NewDecoder(conn)
	for _, order := range append([]string{"", `{"execute":"qmp_capabilities"}`}, orders...) {
		if _, err := conn.Write([]byte(order)); err != nil {
			return fmt.Errorf("tell QEMU: %w", err)
		}
		// Its greeting answers the empty order; events come in between.
		for {
			var answer map[string]any
			if err := answers.Decode(&answer); err != nil {
				return fmt.Errorf("hear from QEMU: %w", err)
			}
			if answer["error"] != nil {
				return fmt.Errorf("QEMU refuses %s: %v", order, answer["error"])
			}
			if answer["event"] == nil {
				break
			}
		}
	}
	return nil
}

// dial waits until QEMU has made its socket.
func dial(path string) (net.Conn, error) {
	limit := time.Now().Add(30 * time.Second)
	for {
		conn, err := net.Dial("unix", path)
		if err == nil || time.Now().After(limit) {
			return conn, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// firmware does what a Pi's does: it takes kernel, RAM disk and command line from
// the FAT partition. The first two are written to dir.
func firmware(card, dir string) (command string, err error) {
	for _, name := range []string{"kernel8.img", "initramfs8"} {
		b, err := BootFile(card, name)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return "", err
		}
	}
	b, err := BootFile(card, "cmdline.txt")
	return strings.TrimSpace(string(b)), err
}

// BootFile reads a file of a card's boot partition.
func BootFile(card, name string) ([]byte, error) {
	f, err := os.Open(card)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	table, err := mbr.Read(file.New(f, true), 512, 512)
	if err != nil {
		return nil, err
	}
	p := table.Partitions[0]
	fat, err := fat32.Read(file.New(f, true), int64(p.Size)*512, int64(p.Start)*512, 512)
	if err != nil {
		return nil, err
	}
	return fat.ReadFile(name)
}
