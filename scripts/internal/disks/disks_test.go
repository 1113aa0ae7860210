//go:build linux

package disks

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"
)

// machine is a computer with its own disk, encrypted, a fixed data disk, an eMMC, a card reader, a card and sticks.
func machine() fstest.MapFS {
	files := map[string]string{
		"proc/self/mountinfo": "1 0 253:0 / / rw - ext4 /dev/mapper/root rw\n" +
			"2 1 8:33 / /media/me/my\\040stick rw - vfat /dev/sdc1 rw\n" +
			"3 1 0:40 / /data rw - btrfs /dev/sdd1 rw\n",
		"proc/swaps": "Filename Type Size Used Priority\n/dev/sdg1 partition 1 0 -2\n",

		"sys/block/sda/size": "1000", "sys/block/sda/dev": "8:0", "sys/block/sda/removable": "0", "sys/block/sda/device/model": "System",
		"sys/block/sda/sda2/dev": "8:2", "sys/block/sda/sda2/holders/dm-0/x": "",
		"sys/block/dm-0/dev": "253:0", "sys/block/dm-0/dm/name": "root", "sys/block/dm-0/size": "900",
		"sys/block/sdb/size": "31116288", "sys/block/sdb/dev": "8:16", "sys/block/sdb/removable": "1",
		"sys/block/sdb/device/vendor": "Generic ", "sys/block/sdb/device/model": "SD/MMC", "sys/block/sdb/sdb1/dev": "8:17",
		"sys/block/sdc/size": "1000", "sys/block/sdc/dev": "8:32", "sys/block/sdc/removable": "1", "sys/block/sdc/sdc1/dev": "8:33",
		"sys/block/sdd/size": "1000", "sys/block/sdd/dev": "8:48", "sys/block/sdd/removable": "1", "sys/block/sdd/sdd1/dev": "8:49",
		"sys/block/sde/size": "0", "sys/block/sde/dev": "8:64", "sys/block/sde/removable": "1",
		"sys/block/sdf/size": "1000", "sys/block/sdf/dev": "8:80", "sys/block/sdf/removable": "1", "sys/block/sdf/ro": "1",
		"sys/block/sdg/size": "1000", "sys/block/sdg/dev": "8:96", "sys/block/sdg/removable": "1", "sys/block/sdg/sdg1/dev": "8:97",
		"sys/block/sdh/size": "1000", "sys/block/sdh/dev": "8:112", "sys/block/sdh/removable": "1",
		"sys/block/sdi/size": "1000", "sys/block/sdi/dev": "8:128", "sys/block/sdi/removable": "1", "sys/block/sdi/sdi1/holders/md0/x": "",
		"sys/block/mmcblk0/size": "1000", "sys/block/mmcblk0/dev": "179:0", "sys/block/mmcblk0/removable": "0", "sys/block/mmcblk0/device/type": "MMC",
		"sys/block/mmcblk1/size": "1000", "sys/block/mmcblk1/dev": "179:8", "sys/block/mmcblk1/removable": "0",
		"sys/block/mmcblk1/device/type": "SD", "sys/block/mmcblk1/device/name": "SC16G",
		"sys/block/loop0/size": "1000", "sys/block/zram0/size": "1000",
	}
	m := fstest.MapFS{}
	for name, text := range files {
		m[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}

func bus(path string) (string, error) {
	if strings.HasSuffix(path, "/sdh") {
		return "/sys/devices/pci0000:00/ata3/host2/target/sdh", nil
	}
	return "/sys/devices/pci0000:00/usb1/" + path, nil
}

// Only cards and sticks that nobody uses may be written; every other disk has its reason.
func TestWhichDisksMayBeWritten(t *testing.T) {
	all, err := list(machine(), bus)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]error{
		"/dev/sda":     ErrSystem,   // through the encrypted volume on it
		"/dev/sdb":     nil,         // a card in a reader
		"/dev/sdc":     ErrMounted,  // a stick that the desktop shows
		"/dev/sdd":     ErrMounted,  // btrfs: only the path tells
		"/dev/sde":     ErrNoMedium, // an empty reader
		"/dev/sdf":     ErrReadOnly,
		"/dev/sdg":     ErrSystem, // swap
		"/dev/sdh":     ErrFixed,  // a SATA bay that calls itself removable
		"/dev/sdi":     ErrMounted,
		"/dev/mmcblk0": ErrFixed, // soldered
		"/dev/mmcblk1": nil,      // a card in a built-in slot
	}
	for _, d := range all {
		err, known := want[d.Path]
		if !known {
			t.Errorf("%s is listed", d.Path)
		}
		if got := d.Writable(); !errors.Is(got, err) || err == nil && got != nil {
			t.Errorf("%s: %v, want %v", d.Path, got, err)
		}
		delete(want, d.Path)
	}
	if len(want) > 0 {
		t.Errorf("not listed: %v", want)
	}
}

// A disk says what it is, and where it is mounted, in the words of its owner.
func TestDisksAreDescribed(t *testing.T) {
	all, err := list(machine(), bus)
	if err != nil {
		t.Fatal(err)
	}
	d, err := Find(all, "/dev/sdb")
	if err != nil || d.Model != "Generic SD/MMC" || d.Size != 31116288*512 {
		t.Errorf("%+v, %v", d, err)
	}
	if d, err = Find(all, "/dev/sdc"); err != nil || !strings.Contains(d.Writable().Error(), "/media/me/my stick") {
		t.Errorf("%+v, %v", d, err)
	}
	if d, err = Find(all, "/dev/mmcblk1"); err != nil || d.Model != "SC16G" {
		t.Errorf("%+v, %v", d, err)
	}
}

// A partition, or what is no disk, is not found.
func TestPartitionsAreNoDisks(t *testing.T) {
	all, err := list(machine(), bus)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/dev/sdb1", "/dev/loop0", "/dev/null", ""} {
		if _, err := Find(all, path); !errors.Is(err, ErrNotListed) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// This machine's disks can be listed, and none that it runs from may be written.
func TestThisMachine(t *testing.T) {
	all, err := List()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		if d.System && !errors.Is(d.Writable(), ErrSystem) {
			t.Errorf("%+v may be written", d)
		}
	}
}
