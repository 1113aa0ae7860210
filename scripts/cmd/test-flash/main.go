// Command test-flash flashes a card, runs it in an emulator, pulls its plug, and
// counts what arrived in the cloud.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/guest"
	"github.com/holdfast-edge/holdfast/scripts/internal/oracle"
	"github.com/holdfast-edge/holdfast/scripts/internal/process"
	"github.com/holdfast-edge/holdfast/scripts/internal/stack"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

const help = `Usage: ./scripts/test-flash [flags]

Builds an image that looks like Raspberry Pi OS out of Debian for arm64 (once, ten
minutes, as root), flashes it to a file with ./scripts/flash, and boots that in
qemu-system-aarch64. Sensors on this machine publish over MQTT into the guest; broker
and cloud run on this machine. Then:

  first-boot  the plug is pulled twice during the first boot; the next one completes it
  load        the network is cut, and under load the plug is pulled: after booting again
              everything acknowledged arrives. While the network is cut the count must
              miss readings, or it could not tell
  offline     a boot with no network and the clock at 1970: readings are taken
  upgrade     the package is upgraded and downgraded under load
  reflash     the card, with unsent readings, is flashed again with --keep-identity
  firstrun    an image without cloud-init comes up too

It needs qemu-system-arm, mmdebstrap, binfmt-support with qemu-user-static, mtools,
dosfstools, fdisk, zstd, cpio, kmod, e2fsprogs and an SSH client.

Flags:
  --only CASES   some of the above, separated by commas. Without first-boot the card is
                 booted for the first time with nobody pulling a plug
  --package FILE, --upgrade FILE
                 the packages to install and to upgrade to (default: built from this
                 checkout)
  --dir DIR      where cards, consoles and logs are kept (default: a temporary folder,
                 kept only after a failure)
`

type options struct {
	only     []string
	dir      string
	old, new string // packages
}

func main() {
	fs := flag.NewFlagSet("test-flash", flag.ExitOnError)
	fs.Usage = func() { fmt.Fprint(os.Stderr, help) }
	only, dir := fs.String("only", "", ""), fs.String("dir", "", "")
	older, newer := fs.String("package", "", ""), fs.String("upgrade", "", "")
	if err := fs.Parse(os.Args[1:]); err != nil || fs.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "test-flash: --help lists the flags")
		os.Exit(2)
	}
	o := options{dir: *dir, old: *older, new: *newer}
	if *only != "" {
		o.only = strings.Split(*only, ",")
	}
	os.Exit(run(o))
}

func run(o options) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	defer stop()
	r := &rig{options: o, screen: term.New(os.Stdout), group: process.NewGroup()}
	begin := time.Now()
	err := r.all(ctx)
	if err != nil {
		fmt.Fprintf(os.Stderr, "test-flash: %v\ncards, consoles and logs are kept in %s\n", err, r.dir)
		if ctx.Err() != nil {
			return 130
		}
		return 1
	}
	r.screen.Print(fmt.Sprintf("\n  PASSED in %.0f s: nothing acknowledged is missing, nothing is there twice or altered, no number is unexplained\n",
		time.Since(begin).Seconds()))
	return 0
}

// rig is what the cases have in common.
type rig struct {
	options
	screen *term.Screen
	root   string
	group  *process.Group // of guests
	cloud  *stack.Stack

	flash    string // our program
	images   struct{ cloudInit, firstRun string }
	key      string // private SSH key
	password string
	ports    struct{ mqtt, ssh string }

	card  string
	guest *guest.Guest
	boots int

	oracles []*oracle.Oracle // one a publication
	stopped chan struct{}    // nil: nobody publishes
	done    chan error
}

// all runs the cases, and ends everything.
func (r *rig) all(ctx context.Context) (err error) {
	temporary := r.dir == ""
	if temporary {
		r.dir, err = os.MkdirTemp("", "holdfast-flash-")
	} else {
		err = os.MkdirAll(r.dir, 0o700)
	}
	if err != nil {
		return err
	}
	err = r.prepare(ctx)
	if err == nil {
		err = r.cases(ctx)
	}
	if r.guest != nil {
		err = errors.Join(err, r.off())
	}
	err = errors.Join(err, r.group.Close(5*time.Second))
	if r.cloud != nil {
		err = errors.Join(err, r.cloud.Stop())
	}
	if err == nil && temporary {
		err = os.RemoveAll(r.dir)
	}
	return err
}

func (r *rig) cases(ctx context.Context) error {
	for _, c := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"first-boot", r.firstBoot},
		{"load", r.load},
		{"offline", r.offline},
		{"upgrade", r.upgrade},
		{"reflash", r.reflash},
		{"firstrun", r.firstRun},
	} {
		if !r.wanted(c.name) {
			continue
		}
		begin := time.Now()
		if err := c.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		r.screen.Event("%s: passed (%.0f s)", c.name, time.Since(begin).Seconds())
	}
	return nil
}

func (r *rig) wanted(name string) bool {
	if len(r.only) == 0 {
		return true
	}
	return slices.Contains(r.only, name)
}
