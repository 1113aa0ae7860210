package keep_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/scripts/internal/keep"
	"github.com/holdfast-edge/holdfast/scripts/internal/require"
)

// card makes a card whose second partition is ext4 with these files.
func card(t *testing.T, files map[string]string) string {
	t.Helper()
	mke2fs := require.Program(t, "mke2fs")
	require.Program(t, "debugfs")
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "card.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	table := make([]byte, 512)
	// A FAT at 1 MiB, and Linux at 2 MiB with 16 MiB: in sectors, the last bytes first.
	copy(table[446:], []byte{0, 0, 0, 0, 0x0c, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0})
	copy(table[462:], []byte{0, 0, 0, 0, 0x83, 0, 0, 0, 0, 16, 0, 0, 0, 128, 0, 0})
	copy(table[510:], []byte{0x55, 0xaa})
	if _, err := f.Write(table); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(18<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), mke2fs, "-q", "-t", "ext4", "-d", root, "-E", "offset=2097152", path, "16M").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// What an agent has on a card is in the archive, bit for bit, and the card says whose it is.
func TestWhatIsOnTheCardIsKept(t *testing.T) {
	path := card(t, map[string]string{
		"var/lib/holdfast/agent.key": "key\x00\xff", "var/lib/holdfast/enrolment.json": `{"agent":"greenhouse-1"}`,
		"var/lib/holdfast/outbox/1-1": strings.Repeat("reading", 100_000), "etc/passwd": "root",
	})
	archive := filepath.Join(t.TempDir(), "state.tar.gz")
	k, err := keep.Save(t.Context(), path, archive)
	if err != nil || k.Agent != "greenhouse-1" || k.Bytes == 0 {
		t.Fatalf("%+v, %v", k, err)
	}
	got := contents(t, archive)
	if got["agent.key"] != "key\x00\xff" {
		t.Errorf("key: %q", got["agent.key"])
	}
	if len(got) != 4 || len(got["outbox/1-1"]) != 700_000 {
		t.Errorf("archive: %v", slices.Sorted(maps.Keys(got)))
	}
	if info, err := os.Stat(archive); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others may read it: %v, %v", info.Mode(), err)
	}
}

// A card whose power was cut has changes in its journal alone: they are part of what is kept, and the card itself stays as it is.
func TestJournalIsReplayed(t *testing.T) {
	path := card(t, map[string]string{"var/lib/holdfast/agent.key": "key", "var/lib/holdfast/outbox/1-1": strings.Repeat("old ", 256)})
	root := path + "?offset=2097152"
	debugfs := func(commands string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "debugfs", "-w", "-f", "-", root)
		cmd.Stdin = strings.NewReader(commands)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	// The reading's block is written anew, in the journal: that is where the kernel writes first.
	lines := strings.Split(strings.TrimSpace(debugfs("bmap /var/lib/holdfast/outbox/1-1 0\n")), "\n")
	block := strings.TrimSpace(lines[len(lines)-1])
	fresh := filepath.Join(t.TempDir(), "fresh")
	if err := os.WriteFile(fresh, []byte(strings.Repeat("new ", 256)), 0o600); err != nil {
		t.Fatal(err)
	}
	debugfs("jo\njw -b " + block + " " + fresh + "\njc\n")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "state.tar.gz")
	if _, err := keep.Save(t.Context(), path, archive); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, archive)["outbox/1-1"]; got != strings.Repeat("new ", 256) {
		t.Errorf("block %s: kept %.20q", block, got)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the card was changed: %v", err)
	}
}

// contents returns the files of an archive.
func contents(t *testing.T, archive string) map[string]string {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = string(b)
	}
}

// A card without an agent, and what is no card, are told apart from one with an agent; no archive is left.
func TestCardWithoutAnAgent(t *testing.T) {
	dir := t.TempDir()
	none := filepath.Join(dir, "none.img")
	if err := os.WriteFile(none, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{card(t, map[string]string{"etc/passwd": "root"}), none} {
		if _, err := keep.Save(t.Context(), path, filepath.Join(dir, "state.tar.gz")); !errors.Is(err, keep.ErrNothing) {
			t.Errorf("error = %v", err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*state*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
