package powercut

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// mounted is a disk at a folder of the test's own.
func mounted(t *testing.T, seed uint64) (d *Disk, dir string) {
	t.Helper()
	if err := Available(); err != nil {
		if strings.Contains(os.Getenv("HOLDFAST_TEST_REQUIRE"), "fuse") {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	d, dir = New(seed), t.TempDir()
	if err := d.Mount(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Unmount() })
	return d, dir
}

// boot mounts a disk anew, as after a power cut.
func boot(t *testing.T, d *Disk, dir string) {
	t.Helper()
	if err := errors.Join(d.Unmount(), d.Mount(dir)); err != nil {
		t.Fatal(err)
	}
}

// put writes a file, and syncs it and its name when it is to last.
func put(t *testing.T, path string, data []byte, lasting bool) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	if lasting {
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		hold(t, filepath.Dir(path))
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// hold makes the names in a folder durable.
func hold(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// What a program synced, in folders that it synced, is there after every cut; what it
// did not is there after some of them and gone after others.
func TestProgramsFindWhatTheySynced(t *testing.T) {
	kept, lost := 0, 0
	for seed := range uint64(20) {
		d, dir := mounted(t, seed)
		sub := filepath.Join(dir, "folder")
		if err := os.Mkdir(sub, 0o700); err != nil {
			t.Fatal(err)
		}
		hold(t, dir)
		sure, unsure := bytes.Repeat([]byte("sure"), 5000), bytes.Repeat([]byte("unsure"), 100)
		put(t, filepath.Join(sub, "sure"), sure, true)
		put(t, filepath.Join(sub, "unsure"), unsure, false)
		d.Cut()
		if _, err := os.ReadDir(sub); !errors.Is(err, syscall.EIO) {
			t.Fatalf("without power: %v", err)
		}
		boot(t, d, dir)
		if got, err := os.ReadFile(filepath.Join(sub, "sure")); err != nil || !bytes.Equal(got, sure) {
			t.Fatalf("seed %d: what was synced has %d bytes of %d: %v", seed, len(got), len(sure), err)
		}
		switch got, err := os.ReadFile(filepath.Join(sub, "unsure")); {
		case errors.Is(err, os.ErrNotExist) || err == nil && !bytes.Equal(got, unsure):
			lost++
		case err != nil:
			t.Fatal(err)
		default:
			kept++
		}
	}
	if kept == 0 || lost == 0 {
		t.Fatalf("of 20 cuts %d kept what was not synced and %d did not", kept, lost)
	}
}

// A file that is replaced by rename is the old one or the new one after a cut, whole,
// if the new one was synced before; and the new one once the folder was.
func TestReplacedFileIsOldOrNew(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(20) {
		d, dir := mounted(t, seed)
		name, temp := filepath.Join(dir, "name"), filepath.Join(dir, "temp")
		put(t, name, bytes.Repeat([]byte("o"), 9000), true)
		put(t, temp, bytes.Repeat([]byte("n"), 9000), true)
		if err := os.Rename(temp, name); err != nil {
			t.Fatal(err)
		}
		if seed%4 == 3 {
			hold(t, dir)
		}
		d.Cut()
		boot(t, d, dir)
		got, err := os.ReadFile(name)
		if err != nil || len(got) != 9000 || strings.Trim(string(got), string(got[:1])) != "" {
			t.Fatalf("seed %d: %d bytes, %v", seed, len(got), err)
		}
		if seed%4 == 3 && got[0] != 'n' {
			t.Fatalf("seed %d: the folder was synced, and the old file is there", seed)
		}
		if _, err := os.Stat(temp); (err == nil) == (got[0] == 'n') {
			t.Fatalf("seed %d: half a rename", seed)
		}
		seen[string(got[:1])]++
	}
	if len(seen) != 2 {
		t.Fatalf("%v", seen)
	}
}

// Each kind of operation reaches the program as the error that it was told to fail
// with, and passes again afterwards.
func TestFaultsReachThePrograms(t *testing.T) {
	d, dir := mounted(t, 1)
	path := filepath.Join(dir, "file")
	put(t, path, []byte("data"), true)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	folder, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	other := filepath.Join(dir, "other")
	for op, act := range map[Op]func() error{
		Write:    func() error { _, err := f.WriteAt([]byte("more"), 0); return err },
		Sync:     f.Sync,
		SyncDir:  folder.Sync,
		Truncate: func() error { return f.Truncate(2) },
		Allocate: func() error { return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, 1<<20) },
		Create:   func() error { _ = os.Remove(other); c, err := os.Create(other); return errors.Join(err, c.Close()) },
		Open:     func() error { c, err := os.Open(path); return errors.Join(err, c.Close()) },
		Rename:   func() error { return errors.Join(os.Rename(path, other), os.Rename(other, path)) },
		Unlink:   func() error { return errors.Join(os.WriteFile(other, nil, 0o600), os.Remove(other)) },
	} {
		for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
			asked := 0
			d.SetFault(func(got Op, name string) syscall.Errno {
				if got != op {
					return 0
				}
				asked++
				return errno
			})
			if err := act(); !errors.Is(err, errno) || asked == 0 {
				t.Errorf("%s told to fail with %d gave %v, asked %d times", op, errno, err, asked)
			}
			d.SetFault(nil)
			if err := act(); err != nil {
				t.Errorf("%s afterwards: %v", op, err)
			}
		}
	}
}

// A full disk refuses what does not fit, has the room that was set aside for a file for
// that file alone, and says how much is left.
func TestFullDiskTellsThePrograms(t *testing.T) {
	d, dir := mounted(t, 1)
	d.SetCapacity(1 << 20)
	f, err := os.Create(filepath.Join(dir, "reserved"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, 512<<10); err != nil {
		t.Fatal(err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != 0 || info.Sys().(*syscall.Stat_t).Blocks*512 < 512<<10 {
		t.Fatalf("%+v, %v", info, err)
	}
	var free unix.Statfs_t
	if err := unix.Statfs(dir, &free); err != nil || free.Bavail*uint64(free.Bsize) != 512<<10 {
		t.Fatalf("%d bytes are free, %v", free.Bavail*uint64(free.Bsize), err)
	}
	other, err := os.Create(filepath.Join(dir, "other"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	written := 0
	for page := make([]byte, pageSize); err == nil && written < 2<<20; written += pageSize {
		_, err = other.Write(page)
	}
	if !errors.Is(err, syscall.ENOSPC) || written > 512<<10+pageSize {
		t.Fatalf("%d bytes, %v", written, err)
	}
	if _, err := f.Write(make([]byte, 512<<10)); err != nil {
		t.Fatalf("what was set aside: %v", err)
	}
	if used := d.Used(); used > 1<<20 {
		t.Fatalf("%d bytes are in use", used)
	}
}

// A disk is mounted only where that can work.
func TestMountSaysWhatIsWrong(t *testing.T) {
	_, dir := mounted(t, 1)
	if err := New(1).Mount(filepath.Join(dir, "none")); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("at a folder that is not there: %v", err)
	}
	if err := New(1).Unmount(); err != nil {
		t.Fatalf("one that was never mounted: %v", err)
	}
}
