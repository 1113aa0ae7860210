package disks

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// List returns the disks of this machine.
func List() ([]Disk, error) { return list(os.DirFS("/"), filepath.EvalSymlinks) }

// Canonical returns the name under which List has a device: links such as
// /dev/disk/by-id/… lead there.
func Canonical(path string) (string, error) { return filepath.EvalSymlinks(path) }

func unmount(d Disk) string { return "sudo umount " + d.Path + "?*" }

// list reads root, which has the folders sys and proc. resolve follows the link
// of a disk in /sys/block to its place among the buses.
func list(root fs.FS, resolve func(string) (string, error)) ([]Disk, error) {
	entries, err := fs.ReadDir(root, "sys/block")
	if err != nil {
		return nil, err
	}
	used, err := inUse(root)
	if err != nil {
		return nil, err
	}
	var all []Disk
	for _, e := range entries {
		name := e.Name()
		if virtual(name) {
			continue
		}
		dir := path.Join("sys/block", name)
		d := Disk{
			Path: "/dev/" + name, Model: strings.TrimSpace(attribute(root, dir, "device/vendor") + " " + model(root, dir)),
			Size: number(root, dir, "size") * 512, ReadOnly: attribute(root, dir, "ro") == "1",
		}
		bus, _ := resolve("/" + dir) // where it is unknown, only the disk's own word counts
		// A card in a built-in slot does not call itself removable. eMMC, type MMC, is soldered.
		d.Removable = attribute(root, dir, "removable") == "1" || attribute(root, dir, "device/type") == "SD"
		if strings.HasPrefix(name, "sd") && strings.Contains(bus, "/ata") {
			d.Removable = false // hot-swap bays call themselves removable
		}
		d.Mounted, d.System = users(root, dir, used)
		all = append(all, d)
	}
	return all, nil
}

// virtual reports names of what is no disk: loops, RAM, compressed memory, and
// what is made of other disks.
func virtual(name string) bool {
	for _, p := range []string{"loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// inUse returns what is mounted or swapped to, by the device's numbers or path.
func inUse(root fs.FS) (map[string][]string, error) {
	used := map[string][]string{}
	err := lines(root, "proc/self/mountinfo", func(f []string) {
		if len(f) < 5 {
			return
		}
		where := unescape(f[4])
		used[f[2]] = append(used[f[2]], where)
		// btrfs and others give numbers that no disk has; the source names it.
		if i := slices.Index(f, "-"); i >= 0 && i+2 < len(f) && strings.HasPrefix(f[i+2], "/dev/") {
			used[f[i+2]] = append(used[f[i+2]], where)
		}
	})
	if err != nil {
		return nil, err
	}
	err = lines(root, "proc/swaps", func(f []string) {
		if len(f) > 0 && strings.HasPrefix(f[0], "/dev/") {
			used[f[0]] = append(used[f[0]], "swap")
		}
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return used, err
}

// users returns who uses a disk, its partitions, and what is made of them.
func users(root fs.FS, dir string, used map[string][]string) (where []string, system bool) {
	add := func(dir string) {
		for _, key := range []string{attribute(root, dir, "dev"), "/dev/" + path.Base(dir), "/dev/mapper/" + attribute(root, dir, "dm/name")} {
			for _, w := range used[key] {
				if !slices.Contains(where, w) {
					where = append(where, w)
				}
				system = system || slices.Contains([]string{"/", "/boot", "/boot/efi", "/boot/firmware", "/usr", "/var", "/home", "swap"}, w)
			}
		}
	}
	entries, _ := fs.ReadDir(root, dir) // what has vanished has no users
	dirs := []string{dir}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), path.Base(dir)) {
			dirs = append(dirs, path.Join(dir, e.Name()))
		}
	}
	for _, d := range dirs {
		add(d)
		holders, _ := fs.ReadDir(root, path.Join(d, "holders")) // none: no folder
		for _, h := range holders {
			w, s := users(root, path.Join("sys/block", h.Name()), used)
			where, system = append(where, w...), system || s
			if len(w) == 0 {
				where = append(where, "/dev/"+h.Name())
			}
		}
	}
	return where, system
}

func model(root fs.FS, dir string) string {
	if m := attribute(root, dir, "device/model"); m != "" {
		return m
	}
	return attribute(root, dir, "device/name")
}

// attribute returns a file of sysfs; empty when there is none.
func attribute(root fs.FS, dir, name string) string {
	b, err := fs.ReadFile(root, path.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func number(root fs.FS, dir, name string) int64 {
	n, err := strconv.ParseInt(attribute(root, dir, name), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func lines(root fs.FS, name string, each func(fields []string)) error {
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		each(strings.Fields(s.Text()))
	}
	return s.Err()
}

// unescape undoes what the kernel does to spaces in mount points.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`).Replace(s)
}
