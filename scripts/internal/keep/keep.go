// Package keep saves what an agent has on a card, key, enrolment and readings
// that are not in the cloud yet, before the card is overwritten.
package keep

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/mbr"
)

// ErrNothing says that there is no agent's folder on a card.
var ErrNothing = errors.New("no agent was found on the card")

// Kept is what was saved.
type Kept struct {
	Agent string // as the cloud knows it; empty: it was not enrolled
	Bytes int64  // of the archive
}

// Save reads /var/lib/holdfast from the ext4 root of a card, which may be a disk
// or a file, and writes it to an archive (gzipped tar). It returns when the
// archive is on this machine's disk. A card whose power failed has its journal
// replayed first, as its next boot would do. It wants e2fsprogs.
func Save(ctx context.Context, card, archive string) (k Kept, err error) {
	dir, err := os.MkdirTemp(filepath.Dir(archive), ".holdfast-keep-*")
	if err != nil {
		return k, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	part, err := root(ctx, card, dir)
	if err != nil {
		return k, err
	}
	if err := tool(ctx, "e2fsck", "-p", "-E", "journal_only", part); err != nil {
		return k, fmt.Errorf("replay the journal of %s: %w", card, err)
	}
	if err := tool(ctx, "debugfs", "-R", "rdump /var/lib/holdfast "+dir, part); err != nil {
		return k, fmt.Errorf("read %s: %w", card, err)
	}
	data := filepath.Join(dir, "holdfast")
	if _, err := os.Stat(filepath.Join(data, "agent.key")); err != nil {
		return k, fmt.Errorf("%s: %w (no /var/lib/holdfast/agent.key)", card, ErrNothing)
	}
	if k.Agent, err = agent(data); err != nil {
		return k, err
	}
	k.Bytes, err = pack(data, archive)
	return k, err
}

// root returns a path at which e2fsprogs find the first Linux partition of a card:
// the kernel's name for it or, where the card is a file, a copy in dir. They can be
// told an offset instead, but e2fsck (1.47) forgets it once it has replayed a journal.
func root(ctx context.Context, card, dir string) (string, error) {
	f, err := os.Open(card)
	if err != nil {
		return "", err
	}
	defer f.Close()
	t, err := mbr.Read(file.New(f, true), 512, 512)
	if err != nil {
		return "", fmt.Errorf("%s: %w (%w)", card, ErrNothing, err)
	}
	for i, p := range t.Partitions {
		if p == nil || p.Type != mbr.Linux || p.Size == 0 {
			continue
		}
		if name := device(card, i+1); name != "" {
			return name, nil
		}
		path := filepath.Join(dir, "root.ext4")
		return path, extract(ctx, io.NewSectionReader(f, int64(p.Start)*512, int64(p.Size)*512), path)
	}
	return "", fmt.Errorf("%s: %w (no Linux partition)", card, ErrNothing)
}

// device returns the kernel's name for a partition of a disk; empty: it has none.
func device(disk string, number int) string {
	names := []string{fmt.Sprintf("%s%d", disk, number)} // sdb2
	if last := disk[len(disk)-1]; '0' <= last && last <= '9' {
		names = []string{fmt.Sprintf("%sp%d", disk, number), fmt.Sprintf("%ss%d", disk, number)} // mmcblk0p2, disk4s2
	}
	for _, name := range names {
		if info, err := os.Stat(name); err == nil && info.Mode()&fs.ModeDevice != 0 {
			return name
		}
	}
	return ""
}

// extract writes a partition to a file, with holes where there is nothing.
func extract(ctx context.Context, r *io.SectionReader, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for at := int64(0); at < r.Size() && err == nil; at += int64(len(buf)) {
		var n int
		n, err = r.ReadAt(buf, at)
		if errors.Is(err, io.EOF) {
			err = nil // the end of the partition, or of a file that is shorter
		}
		if err == nil && len(bytes.Trim(buf[:n], "\x00")) > 0 {
			_, err = f.WriteAt(buf[:n], at)
		}
		err = errors.Join(err, ctx.Err())
	}
	if err = errors.Join(err, f.Truncate(r.Size()), f.Close()); err != nil {
		return fmt.Errorf("copy the Linux partition: %w", err)
	}
	return nil
}

// tool runs a program of e2fsprogs, which lies where users do not look.
func tool(ctx context.Context, name string, args ...string) error {
	path := name
	for _, dir := range []string{"", "/usr/sbin", "/sbin", "/opt/homebrew/opt/e2fsprogs/sbin", "/usr/local/opt/e2fsprogs/sbin"} {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			path = p
			break
		}
	}
	cmd := exec.CommandContext(ctx, path, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("%s is not installed (package e2fsprogs)", name)
	case name == "e2fsck" && errors.As(err, &exit) && exit.ExitCode() <= 1:
		return nil // 1: something was mended, which is what it is for
	case err != nil:
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}

func agent(data string) (string, error) {
	text, err := os.ReadFile(filepath.Join(data, "enrolment.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	var e struct {
		Agent string `json:"agent"`
	}
	if err == nil {
		err = json.Unmarshal(text, &e)
	}
	if err != nil {
		return "", fmt.Errorf("read the enrolment on the card: %w", err)
	}
	return e.Agent, nil
}

// pack writes the archive under a name of its own first. Room set aside, which is
// all zeros, takes none in it.
func pack(data, archive string) (size int64, err error) {
	f, err := os.OpenFile(archive+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		return 0, errors.Join(err, f.Close())
	}
	t := tar.NewWriter(z)
	err = filepath.WalkDir(data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == data {
			return err
		}
		return add(t, data, path, d)
	})
	err = errors.Join(err, t.Close(), z.Close(), f.Sync())
	if info, statErr := f.Stat(); statErr == nil {
		size = info.Size()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, errors.Join(fmt.Errorf("save to %s: %w", archive, err), os.Remove(archive+".part"))
	}
	return size, os.Rename(archive+".part", archive)
}

func add(t *tar.Writer, data, path string, d fs.DirEntry) error {
	name, err := filepath.Rel(data, path)
	if err != nil {
		return err
	}
	info, err := d.Info()
	if err != nil {
		return err
	}
	h := &tar.Header{Name: filepath.ToSlash(name), ModTime: info.ModTime(), Mode: 0o600, Typeflag: tar.TypeReg, Size: info.Size()}
	if d.IsDir() {
		h.Name, h.Mode, h.Typeflag, h.Size = h.Name+"/", 0o700, tar.TypeDir, 0
		return t.WriteHeader(h)
	}
	if !info.Mode().IsRegular() {
		return nil // the agent makes none
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(t, f)
	return err
}
