package disks

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
)

// List returns the disks of this machine, as diskutil knows them.
func List() ([]Disk, error) {
	var known struct{ WholeDisks []string }
	if err := plist(&known, "list", "-plist"); err != nil {
		return nil, err
	}
	var all []Disk
	for _, id := range known.WholeDisks {
		d, physical, err := disk(id)
		if err != nil {
			return nil, err
		}
		if physical {
			all = append(all, d)
		}
	}
	return all, nil
}

func disk(id string) (d Disk, physical bool, err error) {
	var info struct {
		MediaName, VirtualOrPhysical string
		Size                         int64
		Internal, WritableMedia      bool
		RemovableMedia, Ejectable    bool
		SystemImage, OSInternalMedia bool
	}
	if err := plist(&info, "info", "-plist", id); err != nil {
		return Disk{}, false, err
	}
	d = Disk{
		Path: "/dev/" + id, Model: info.MediaName, Size: info.Size, ReadOnly: !info.WritableMedia,
		Removable: info.RemovableMedia || info.Ejectable, System: info.OSInternalMedia || info.SystemImage,
	}
	d.Mounted, err = mounted(id)
	return d, info.VirtualOrPhysical != "Virtual", err
}

func mounted(id string) ([]string, error) {
	var parts struct {
		AllDisksAndPartitions []struct{ Partitions []struct{ MountPoint string } }
	}
	if err := plist(&parts, "list", "-plist", id); err != nil {
		return nil, err
	}
	var where []string
	for _, d := range parts.AllDisksAndPartitions {
		for _, p := range d.Partitions {
			if p.MountPoint != "" {
				where = append(where, p.MountPoint)
			}
		}
	}
	return where, nil
}

// plist runs diskutil and lets macOS' own plutil make JSON of its answer.
func plist(into any, args ...string) error {
	cmd := exec.Command("sh", append([]string{"-c", `diskutil "$@" | plutil -convert json -o - -`, "sh"}, args...)...)
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("diskutil %s: %w", strings.Join(args, " "), err)
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("diskutil %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// Canonical returns the name under which List has a device: a raw disk is the
// same disk.
func Canonical(path string) (string, error) {
	return strings.Replace(path, "/dev/rdisk", "/dev/disk", 1), nil
}

func unmount(d Disk) string { return "diskutil unmountDisk " + d.Path }
