package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/build"
	"github.com/holdfast-edge/holdfast/scripts/internal/card"
	"github.com/holdfast-edge/holdfast/scripts/internal/deb"
	"github.com/holdfast-edge/holdfast/scripts/internal/disks"
	"github.com/holdfast-edge/holdfast/scripts/internal/keep"
	"github.com/holdfast-edge/holdfast/scripts/internal/node"
	"github.com/holdfast-edge/holdfast/scripts/internal/repo"
	"github.com/holdfast-edge/holdfast/scripts/internal/term"
)

// flasher is one run.
type flasher struct {
	options
	screen *term.Screen
	in     io.Reader // the person's answer
	disks  func() ([]disks.Disk, error)
}

// flash does everything in the order in which the least is lost when it fails:
// what can be wrong without the card first, the card last.
func (f *flasher) flash(ctx context.Context) error {
	root, err := repo.Root()
	if err != nil {
		return err
	}
	settings, err := f.settings(root)
	if err != nil {
		return err
	}
	disk, err := f.target()
	if err != nil {
		return err
	}
	if err := f.checkImage(ctx); err != nil {
		return err
	}
	image, err := card.Open(f.image)
	if err != nil {
		return err
	}
	defer image.Close()
	boot, err := card.OpenBoot(ctx, image, "")
	if err != nil {
		return fmt.Errorf("%s: %w", f.image, err)
	}
	defer boot.Close() //nolint:errcheck // a temporary file
	if disk.Size > 0 && disk.Size < boot.Need {
		return fmt.Errorf("%s has %s; this image needs %s: take a larger card", disk.Path, size(disk.Size), size(boot.Need))
	}
	if settings.Packages, err = f.debs(ctx, root, boot); err != nil {
		return err
	}
	if f.keep {
		if settings.State, err = f.keepState(ctx, disk); err != nil {
			return err
		}
	}
	if err := f.prepare(boot, settings); err != nil {
		return fmt.Errorf("%s: %w", f.image, err)
	}
	return f.write(ctx, disk, boot, image)
}

// target checks where the card is. A file is a disk of unknown size.
func (f *flasher) target() (disks.Disk, error) {
	if f.output != "" {
		return disks.Disk{Path: f.output}, nil
	}
	path, err := disks.Canonical(f.device)
	if err != nil {
		return disks.Disk{}, err
	}
	all, err := f.disks()
	if err != nil {
		return disks.Disk{}, fmt.Errorf("list disks: %w", err)
	}
	d, err := disks.Find(all, path)
	if err == nil {
		err = d.Writable()
	}
	return d, err
}

// checkImage reads the whole image once: it is cheaper than a card with a wrong
// one.
func (f *flasher) checkImage(ctx context.Context) error {
	info, err := os.Stat(f.image)
	if err != nil {
		return err
	}
	want := strings.ToLower(f.sha256)
	if want == "" {
		want, err = card.Expected(f.image)
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("no digest for %s: give --sha256 HEX from where it was downloaded, or put %s.sha256 beside it", f.image, filepath.Base(f.image))
		}
		if err != nil {
			return err
		}
	}
	progress := f.bar()
	got, err := card.Sum(ctx, f.image, func(done int64) { progress("checking", done, info.Size()) })
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%s: %w: it is %s, expected %s; download it again", f.image, card.ErrHash, got, want)
	}
	f.screen.Event("%s is what it should be (%s)", filepath.Base(f.image), size(info.Size()))
	return nil
}

// debs returns the packages for the card: those given, or freshly built ones.
func (f *flasher) debs(ctx context.Context, root string, boot *card.Boot) ([]string, error) {
	for _, p := range f.packages {
		if !strings.HasSuffix(p, ".deb") || !strings.Contains(filepath.Base(p), "_") {
			return nil, fmt.Errorf("--package %s: want NAME_VERSION_ARCH.deb", p)
		}
		if _, err := os.Stat(p); err != nil {
			return nil, err
		}
	}
	if len(f.packages) > 0 {
		return f.packages, nil
	}
	arches, err := node.Arches(boot)
	if err != nil {
		return nil, err
	}
	if f.arch != "" && f.arch != "auto" {
		arches = []string{f.arch}
	}
	version, err := deb.Version(ctx, root)
	if err != nil {
		return nil, err
	}
	builder := build.Builder{Root: root, Out: f.screen, TTY: f.screen.TTY()}
	var paths []string
	for _, a := range arches {
		path, err := deb.Build(ctx, builder, deb.Arch(a), version, filepath.Join(root, "dist"))
		if err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// prepare puts everything onto the copy of the boot partition.
func (f *flasher) prepare(boot *card.Boot, s node.Settings) error {
	form := node.Form(f.form)
	if form == "" || form == "auto" {
		var err error
		if form, err = node.Detect(boot); err != nil {
			return err
		}
	}
	if err := node.Install(boot, s, form); err != nil {
		return err
	}
	names := make([]string, 0, len(s.Packages))
	for _, p := range s.Packages {
		names = append(names, filepath.Base(p))
	}
	slices.Sort(names)
	f.screen.Event("prepared: agent %s, first boot by %s, %s", s.Agent, form, strings.Join(names, " and "))
	return boot.Finish()
}

// keepState saves what the card holds. An archive that is there already comes from
// a run that was cut short: the card has nothing better any more.
func (f *flasher) keepState(ctx context.Context, d disks.Disk) (string, error) {
	path := f.state
	if path == "" {
		path = "holdfast-" + f.agent + "-state.tar.gz"
	}
	if info, err := os.Stat(path); err == nil {
		f.screen.Event("using %s from %s, which an earlier run left", path, info.ModTime().Format(time.DateTime))
		return path, nil
	}
	k, err := keep.Save(ctx, d.Path, path)
	if err != nil {
		return "", fmt.Errorf("--keep-identity: %w", err)
	}
	if k.Agent != "" && k.Agent != f.agent {
		return "", errors.Join(fmt.Errorf("--keep-identity: the card is agent %s's, not %s's", k.Agent, f.agent), os.Remove(path))
	}
	f.screen.Event("kept what the agent has on the card: %s (%s)", path, size(k.Bytes))
	return path, nil
}

// target is a card that can be finished or abandoned.
type target interface {
	card.Target
	Done() error
	Abandon() error
}

func (f *flasher) write(ctx context.Context, d disks.Disk, boot *card.Boot, rest io.Reader) error {
	if f.dryRun {
		f.screen.Event("dry run: %s would get %s; nothing was written", d.Path, size(boot.Need))
		return nil
	}
	if f.device != "" {
		if err := f.confirm(d); err != nil {
			return err
		}
	}
	t, err := f.open(d)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := card.Write(ctx, t, boot, rest, f.bar()); err != nil {
		return errors.Join(err, t.Abandon())
	}
	if err := t.Done(); err != nil {
		return err
	}
	if f.keep {
		if err := f.settle(); err != nil {
			return err
		}
	}
	f.screen.Event("%s is written and verified: %s in %.0f s", d.Path, size(boot.Need), time.Since(begin).Seconds())
	f.screen.Event("put it into the Pi; the first boot takes a few minutes, and no network is needed for it")
	return nil
}

// settle moves the archive of what was kept out of the way of the next run. It
// is not deleted: that is for whoever saw the node come up.
func (f *flasher) settle() error {
	path := f.state
	if path == "" {
		path = "holdfast-" + f.agent + "-state.tar.gz"
	}
	f.screen.Event("what the card held is also in %s.done: delete it when the node is up, and never put it onto a second card", path)
	return os.Rename(path, path+".done")
}

func (f *flasher) open(d disks.Disk) (target, error) {
	if f.output != "" {
		return card.NewFile(f.output)
	}
	return card.OpenDevice(d.Path)
}

// bar returns a progress bar with rate and time left. Where lines cannot be drawn
// over, it prints one now and then.
func (f *flasher) bar() card.Progress {
	show, every := f.screen.Event, 5*time.Second
	if f.screen.TTY() {
		show, every = f.screen.Status, 200*time.Millisecond
	}
	var stage card.Stage
	var begin, drawn time.Time
	return func(now card.Stage, done, total int64) {
		if now != stage {
			stage, begin, drawn = now, time.Now(), time.Now()
		}
		if total == 0 || time.Since(drawn) < every {
			return
		}
		drawn = time.Now()
		show("%s", bar(string(stage), done, total, time.Since(begin)))
	}
}

func bar(stage string, done, total int64, took time.Duration) string {
	const width = 24
	full := int(done * width / total)
	rate := float64(done) / max(took.Seconds(), 0.001)
	left := time.Duration(float64(total-done) / max(rate, 1) * float64(time.Second)).Round(time.Second)
	return fmt.Sprintf("%-9s [%s%s] %3d %%  %6.1f MB/s  %v left", stage, strings.Repeat("#", full), strings.Repeat(".", width-full),
		done*100/total, rate/1e6, left)
}
