// Command test-flash flashes a card, runs it in an emulator, pulls its plug, and
// counts what arrived in the cloud.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/holdfast-edge/holdfast/scripts/internal/disk"
	"github.com/holdfast-edge/holdfast/scripts/internal/process"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

const help = `Usage: ./scripts/test-flash [flags]

Builds an image that looks like Raspberry Pi OS out of Debian for arm64 (once, ten
minutes), flashes it to a file with ./scripts/flash, and boots that in
qemu-system-aarch64. Sensors on this machine publish over MQTT into the guest; broker
and cloud run on this machine. The card lies on a disk that forgets: when the plug is
pulled, QEMU is killed, and of what the guest had not flushed random sectors are left.

  first-boot  the plug is pulled twice during the first boot; the next one completes it
  load        the network is cut, and under load the plug is pulled: after booting again
              everything acknowledged arrives. While the network is cut the count must
              miss readings, or it could not tell
  offline     a boot with no network and the clock at 1970: readings are taken
  upgrade     the package is upgraded and downgraded under load
  reflash     the card, with unsent readings, is flashed again with --keep-identity
  firstrun    an image without cloud-init comes up too
  by-hand     the package is purged and installed as its README says: the same node
  control     as load, with a card that says it flushed and keeps nothing: what was
              acknowledged must be found missing

It wants root and /dev/fuse, 6 GB of memory, and the packages qemu-system-arm,
qemu-user-static, binfmt-support, mmdebstrap, mtools, dosfstools, fdisk, zstd, cpio,
kmod, e2fsprogs, python3.11 and openssh-client.

Flags:
  --only CASES   some of the above, separated by commas. Without first-boot the card is
                 booted for the first time with nobody pulling a plug
  --seed N       decides what a pulled plug leaves on the card (default 1)
  --package FILE, --upgrade FILE
                 the packages to install and to upgrade to (default: built from this
                 checkout)
  --dir DIR      where consoles and logs are kept (default: a temporary folder, kept only
                 after a failure)
  --json         print the result as one JSON object on the last line too
`

type options struct {
	only     []string
	seed     uint64
	dir      string
	old, new string // packages
	json     bool
}

func parse(args []string, out io.Writer) (o options, err error) {
	fs := flag.NewFlagSet("test-flash", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	only := fs.String("only", "", "")
	fs.Uint64Var(&o.seed, "seed", 1, "")
	fs.StringVar(&o.dir, "dir", "", "")
	fs.StringVar(&o.old, "package", "", "")
	fs.StringVar(&o.new, "upgrade", "", "")
	fs.BoolVar(&o.json, "json", false, "")
	err = fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(out, help)
		return o, err
	case err != nil:
		return o, err
	case fs.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q; --help lists the flags", fs.Arg(0))
	case (o.old == "") != (o.new == ""):
		return o, errors.New("--package and --upgrade go together")
	}
	if *only == "" {
		return o, nil
	}
	o.only = strings.Split(*only, ",")
	for _, name := range o.only {
		if !slices.ContainsFunc(cases, func(c testCase) bool { return c.name == name }) {
			return o, fmt.Errorf("--only %s: there is no such case; --help lists them", name)
		}
	}
	return o, nil
}

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = disk.Private() // returns where that is done
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "test-flash:", err)
		os.Exit(2)
	}
	os.Exit(run(o))
}

// run returns the exit status: 0 only when every case passed.
func run(o options) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	defer stop()
	r := &rig{options: o, screen: term.New(os.Stdout), group: process.NewGroup()}
	err := r.all(ctx)
	if err != nil {
		fmt.Fprintf(os.Stderr, "test-flash: %v\nconsoles and logs are kept in %s\n", err, r.dir)
	}
	r.screen.Print(r.result.String())
	if o.json {
		line, jsonErr := json.Marshal(r.result)
		err = errors.Join(err, jsonErr)
		fmt.Println(string(line))
	}
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		return 130
	}
	return 1
}
