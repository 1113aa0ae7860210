// Command flash makes a card that comes up as a working Holdfast node.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/holdfast-edge/holdfast/scripts/internal/disks"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "flash:", err)
		os.Exit(2)
	}
	os.Exit(run(o))
}

func run(o options) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	defer stop()
	f := flasher{options: o, screen: term.New(os.Stdout), in: os.Stdin, disks: disks.List}
	work := f.flash
	if o.list() {
		work = f.list
	}
	err := work(ctx)
	f.screen.Status("")
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "flash: interrupted:", err)
		return 130
	}
	fmt.Fprintln(os.Stderr, "flash:", err)
	return 1
}

// list shows the disks that a card may be in, and why not the others.
func (f *flasher) list(context.Context) error {
	all, err := f.disks()
	if err != nil {
		return fmt.Errorf("list disks: %w", err)
	}
	var can, cannot strings.Builder
	for _, d := range all {
		if err := d.Writable(); err != nil {
			fmt.Fprintf(&cannot, "  %s\n", err)
			continue
		}
		fmt.Fprintf(&can, "  %-16s %9s  %s\n", d.Path, size(d.Size), d.Model)
	}
	if can.Len() == 0 {
		can.WriteString("  none: put one into a reader\n")
	}
	f.screen.Print("Cards and sticks that can be written with --device:\n" + can.String())
	if cannot.Len() > 0 {
		f.screen.Print("Left alone:\n" + cannot.String())
	}
	return nil
}

// confirm shows what will be lost and wants the disk's name typed.
func (f *flasher) confirm(d disks.Disk) error {
	f.screen.Status("")
	f.screen.Print(fmt.Sprintf("\nEverything on this disk will be lost:\n\n  %s   %s   %s\n\n", d.Path, size(d.Size), d.Model))
	if f.yes {
		return nil
	}
	f.screen.Print(fmt.Sprintf("Type %s to go on: ", d.Path))
	line, err := bufio.NewReader(io.LimitReader(f.in, 1024)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	if strings.TrimSpace(line) != d.Path {
		return errors.New("not confirmed; nothing was written")
	}
	return nil
}

func size(n int64) string {
	if n < 1e9 {
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}
