#!/usr/bin/env bash
# Builds what a card of Raspberry Pi OS looks like from outside, out of Debian's own packages: a FAT boot partition with kernel, initial RAM disk,
# cmdline.txt, config.txt and cloud-init's three files, and an ext4 root with systemd, cloud-init, netplan and sshd, for arm64.
#
#   build.sh FOLDER      makes FOLDER/pi-cloudinit.img.zst and FOLDER/pi-firstrun.img.zst (no cloud-init files: what bookworm has)
#
# Debian's packages, unpacked and configured, are what takes long: they stay beside FOLDER in piroot-*.tar.zst, for the next version of the rest.
# Nothing is mounted on this machine but binfmt_misc, where it is not. Wants root (for owners and device nodes).
set -euo pipefail

out=${1:?build.sh FOLDER}
suite=bookworm
mirror=http://deb.debian.org/debian
mkdir -p "$out"
work=$(mktemp -d "$out/.work.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT

say() { echo "$(date -u +%T) $*" >&2; }

emulation() { # lets this kernel run arm64 programs; where systemd runs it did this at boot
  [ ! -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ] || return 0
  mountpoint -q /proc/sys/fs/binfmt_misc || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
  update-binfmts --enable qemu-aarch64
}

base() { # the root file system: everything that needs running arm64 programs
  say "packages of Debian $suite for arm64 (minutes, under emulation)"
  # No initramfs-tools: under emulation it takes longer than all the rest. Compiling Python's modules likewise; this machine's Python does it below.
  # shellcheck disable=SC2016 # $1 is the hook's own
  mmdebstrap --mode=root --architectures=arm64 --variant=minbase --format=tar \
    --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Retries "3"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/bin/py3compile' \
    --include=systemd-sysv,udev,dbus,kmod,iproute2,netplan.io,systemd-timesyncd,openssh-server,cloud-init,busybox-static,e2fsprogs,dosfstools,fdisk,sudo \
    --customize-hook='chroot "$1" sh -c "cd /tmp && apt-get download \$(apt-cache depends linux-image-arm64 | sed -n \"s/ *Depends: //p\")"' \
    --customize-hook='copy-out /tmp '"$work" \
    --customize-hook='rm -f "$1"/tmp/*.deb' \
    "$suite" "$work/root.tar" "$mirror"
  tar -rf "$work/root.tar" -C "$work" --transform 's,^tmp/,kernel-package/,' tmp
  zstd -q -3 --rm "$work/root.tar" -o "$work/root.tar.zst"
  mv "$work/root.tar.zst" "$packages"
}

kernel() { # the kernel, and the few modules that QEMU's machine and a card want
  say "kernel"
  dpkg-deb -x "$root"/kernel-package/linux-image-*.deb "$work/kernel"
  rm -r "$root/kernel-package"
  release=$(ls "$work/kernel/lib/modules")
  local from=$work/kernel/lib/modules/$release to=$root/lib/modules/$release
  mkdir -p "$to"
  cp "$from"/modules.{order,builtin,builtin.modinfo} "$to/"
  (cd "$from" && cp -r --parents kernel/fs/ext4 kernel/fs/jbd2 kernel/fs/mbcache.ko kernel/fs/fat kernel/fs/nls kernel/fs/overlayfs kernel/lib kernel/crypto \
    kernel/arch/arm64/crypto kernel/drivers/block/virtio_blk.ko kernel/drivers/net/virtio_net.ko kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko \
    kernel/drivers/net/dummy.ko kernel/drivers/char/hw_random kernel/drivers/virtio kernel/drivers/watchdog "$to/")
  depmod -b "$root" "$release"
}

initrd() { # finds the root partition by its label and hands over; what Pi OS's initramfs8 does
  say "initial RAM disk"
  local ram=$work/ram m
  mkdir -p "$ram"/{bin,lib,proc,sys,dev,root}
  cp "$root/bin/busybox" "$ram/bin/"
  for m in virtio_pci virtio_mmio virtio_blk crc32c_generic ext4; do
    modprobe -d "$root" -S "$release" --show-depends "$m" | sed -n 's/^insmod //p'
  done | awk '!seen[$0]++' | while read -r m; do
    cp "$m" "$ram/lib/"
    echo "insmod /lib/$(basename "$m")"
  done >"$work/insmods"
  cat >"$ram/init" <<INIT
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
$(cat "$work/insmods")
until dev=\$(findfs LABEL=rootfs); do sleep 0.1; done
mount -t ext4 "\$dev" /root || exec sh
umount /proc /sys
mount --move /dev /root/dev
exec switch_root /root /sbin/init
INIT
  chmod 755 "$ram/init"
  (cd "$ram" && find . | cpio --quiet -o -H newc -R 0:0) | gzip -6 >"$work/initramfs8"
}

trim() { # what an emulator would spend minutes on and no test looks at
  local unit
  # Timers that begin with the first boot, and databases that the packages brought up to date already.
  for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-pstore.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
  touch "$root/etc/.updated" "$root/var/.updated"
  # Of cloud-init's some forty modules those that Holdfast's settings speak to; each stage stays, and with it what waits for it.
  cat >"$root/etc/cloud/cloud.cfg.d/98_trimmed.cfg" <<'C'
cloud_init_modules: [ bootcmd, set_hostname, update_hostname, update_etc_hosts, users-groups, ssh ]
cloud_config_modules: [ timezone ]
cloud_final_modules: [ final-message ]
C
}

settings() { # what Raspberry Pi OS sets: where cloud-init looks, the mounts, the first user
  install -d "$root/boot/firmware" "$root/etc/cloud/cloud.cfg.d"
  cat >"$root/etc/cloud/cloud.cfg.d/99_raspberry-pi.cfg" <<'C'
datasource_list: [ NoCloud, None ]
datasource:
  NoCloud:
    fs_label: bootfs
C
  # The script that they start is on this mount. (Pi OS has seedfrom: file:///boot/firmware instead, which bookworm's cloud-init reads otherwise.)
  install -d "$root/etc/systemd/system/cloud-init-local.service.d"
  printf '[Unit]\nRequiresMountsFor=/boot/firmware\n' >"$root/etc/systemd/system/cloud-init-local.service.d/boot.conf"
  # The kernel says PARTUUID of an MBR as Pi OS has it; labels are what the small RAM disk above can find.
  printf '%s\n' 'LABEL=bootfs /boot/firmware vfat defaults 0 2' 'LABEL=rootfs / ext4 defaults,noatime 0 1' >"$root/etc/fstab"
  echo raspberrypi >"$root/etc/hostname"
  printf '127.0.0.1\tlocalhost\n127.0.1.1\traspberrypi\n' >"$root/etc/hosts"
  printf '[Match]\nName=e*\n[Network]\nDHCP=yes\n' >"$root/etc/systemd/network/90-wired.network"
  ln -sf /lib/systemd/system/systemd-networkd.service "$root/etc/systemd/system/multi-user.target.wants/"
  # A Pi starts with no idea of the time. Only for who asks for it on the kernel's command line: systemd would raise 1970 to its own age.
  cat >"$root/etc/systemd/system/clock-1970.service" <<'U'
[Unit]
Description=Set the clock to 1970
ConditionKernelCommandLine=test.clock1970
DefaultDependencies=no
Before=local-fs-pre.target sysinit.target
Wants=local-fs-pre.target
[Service]
Type=oneshot
ExecStart=/bin/date -s @600
[Install]
WantedBy=sysinit.target
U
  mkdir -p "$root/etc/systemd/system/sysinit.target.wants"
  ln -sf ../clock-1970.service "$root/etc/systemd/system/sysinit.target.wants/"
  grep -q '^pi:' "$root/etc/passwd" || {
    echo 'pi:x:1000:1000:,,,:/home/pi:/bin/bash' >>"$root/etc/passwd"
    echo 'pi:*:19800:0:99999:7:::' >>"$root/etc/shadow"
    echo 'pi:x:1000:' >>"$root/etc/group"
    echo 'pi:*::' >>"$root/etc/gshadow"
    cp -r "$root/etc/skel" "$root/home/pi"
    chown -R 1000:1000 "$root/home/pi"
    echo 'pi ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/010_pi-nopasswd"
  }
  rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/machine-id" "$root/var/lib/dbus/machine-id"
  : >"$root/etc/machine-id"
  cat >"$root/etc/systemd/system/regenerate_ssh_host_keys.service" <<'U'
[Unit]
Description=Regenerate SSH host keys
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
[Install]
WantedBy=multi-user.target
U
  ln -sf ../regenerate_ssh_host_keys.service "$root/etc/systemd/system/multi-user.target.wants/"
  printf 'ssh_deletekeys: false\nssh_genkeytypes: []\n' >>"$root/etc/cloud/cloud.cfg.d/99_raspberry-pi.cfg"
  python3.11 -m compileall -q -s "$root" -p / "$root/usr/lib/python3.11" "$root/usr/lib/python3" >/dev/null 2>&1 || say "Python's modules are not compiled: the first boot is slower"
}

boot() { # FILE WITH-CLOUD-INIT
  local fat=$1 f
  truncate -s 256M "$fat"
  mkfs.vfat -F 32 -n bootfs "$fat" >/dev/null
  cat >"$work/cmdline.txt" <<'C'
console=serial0,115200 console=tty1 root=LABEL=rootfs rootfstype=ext4 fsck.repair=yes rootwait
C
  printf '# as on a Pi: 64 bit\narm_64bit=1\nauto_initramfs=1\n\n[all]\n' >"$work/config.txt"
  cp "$work/kernel/boot/vmlinuz-$release" "$work/kernel8.img"
  for f in kernel8.img initramfs8 cmdline.txt config.txt; do mcopy -i "$fat" "$work/$f" ::; done
  [ "$2" = yes ] || return 0
  printf 'dsmode: local\ninstance-id: rpios-image\n' >"$work/meta-data"
  printf '#cloud-config\n# nothing yet\n' >"$work/user-data"
  printf '# nothing yet\n' >"$work/network-config"
  for f in meta-data user-data network-config; do mcopy -i "$fat" "$work/$f" ::; done
}

image() { # NAME WITH-CLOUD-INIT
  say "$1"
  local img=$work/$1.img size
  boot "$work/$1.fat" "$2"
  size=$(($(stat -c %s "$work/root.ext4") / 1048576))
  truncate -s $((4 + 256 + size))M "$img"
  printf 'label: dos\nlabel-id: 0x5ea51de5\n4MiB,256MiB,c\n260MiB,,83\n' | sfdisk -q "$img"
  dd if="$work/$1.fat" of="$img" bs=1M seek=4 conv=notrunc,sparse status=none
  dd if="$work/root.ext4" of="$img" bs=1M seek=260 conv=notrunc,sparse status=none
  zstd -q -3 -f "$img" -o "$out/$1.img.zst.new"
  (cd "$out" && sha256sum "$1.img.zst.new" | sed "s/\.new$//" >"$1.img.zst.sha256")
  mv "$out/$1.img.zst.new" "$out/$1.img.zst"
  rm -f "$img" "$work/$1.fat"
}

for tool in mmdebstrap update-binfmts qemu-aarch64-static mkfs.vfat mcopy sfdisk mke2fs zstd cpio depmod python3.11; do
  command -v "$tool" >/dev/null || { echo "build.sh: $tool is not installed (packages mmdebstrap binfmt-support qemu-user-static dosfstools mtools fdisk e2fsprogs zstd cpio kmod python3.11)" >&2 && exit 1; }
done
packages=$(dirname "$out")/piroot-$(declare -f base | sha256sum | cut -c1-12).tar.zst
[ -s "$packages" ] || { emulation && base; }
root=$work/root release=''
mkdir "$root"
tar -C "$root" --numeric-owner --exclude='./dev/*' -xf "$packages"
kernel
initrd
settings
trim
say "root partition"
truncate -s $(($(du -sm "$root" | cut -f1) + 800))M "$work/root.ext4" # with room for the package, twice while it is upgraded, and the outbox
mke2fs -q -t ext4 -L rootfs -O ^metadata_csum_seed,^orphan_file -d "$root" "$work/root.ext4"
image pi-firstrun no
image pi-cloudinit yes
say "done: $(du -h "$out"/*.zst | tr '\n\t' '  ')"
