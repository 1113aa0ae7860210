#!/bin/sh
# Makes the system on this card a Holdfast node. It lies on the boot partition and takes what it needs from there; no network is wanted.
#
#   holdfast-first-boot.sh system   host name, time zone, Wi-Fi, SSH key (where cloud-init does not do it)
#   holdfast-first-boot.sh arm      leave the rest to a unit that runs beside the start of the system, now and at each boot until it is done
#   holdfast-first-boot.sh run      what that unit does
#   holdfast-first-boot.sh k3s      what the unit for K3s does
#
# The power may fail at any point: each step can be done again, what it makes is under its name only when it is whole, and the archive on the
# boot partition, which holds the secrets too, is deleted last. While it is there, the next boot begins anew.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
work=/var/lib/holdfast-first-boot
data=/var/lib/holdfast
units=/etc/systemd/system

say() { echo "holdfast: $*"; }

unpack() {
  rm -rf "$work"
  mkdir -m 0700 "$work"
  tar -xf "$here/holdfast.tar" -C "$work"
}

# put writes a file under a name of its own first, so that a cut leaves the old one or the new one.
put() { # SOURCE TARGET MODE [OWNER:GROUP]
  mkdir -p "$(dirname "$2")"
  cp "$1" "$2.new"
  chown "${4:-root:root}" "$2.new"
  chmod "$3" "$2.new"
  sync "$2.new"
  mv "$2.new" "$2"
}

# --- where there is no cloud-init ---------------------------------------------------------------------------------------

set_hostname() { # NAME
  old=$(cat /etc/hostname 2>/dev/null || true)
  echo "$1" >"$work/hostname"
  put "$work/hostname" /etc/hostname 0644
  if [ -n "$old" ] && grep -q "^127\.0\.1\.1.*$old" /etc/hosts; then
    sed "s/^127\.0\.1\.1.*/127.0.1.1\t$1/" /etc/hosts >"$work/hosts"
  else
    { cat /etc/hosts 2>/dev/null || true; printf '127.0.1.1\t%s\n' "$1"; } >"$work/hosts"
  fi
  put "$work/hosts" /etc/hosts 0644
}

set_timezone() { # ZONE
  if [ ! -f "/usr/share/zoneinfo/$1" ]; then
    say "this system does not know the time zone $1"
    return 0
  fi
  ln -sf "/usr/share/zoneinfo/$1" /etc/localtime
  echo "$1" >/etc/timezone
}

set_ssh() { # USER; keys in $work/authorized_keys
  # An image of Raspberry Pi OS has no user yet: its own tool gives the first one a name, and here no password.
  if [ -x /usr/lib/userconf-pi/userconf ] && ! getent passwd "$1" >/dev/null; then
    /usr/lib/userconf-pi/userconf "$1" '*'
  fi
  getent passwd "$1" >/dev/null || useradd -m -s /bin/bash "$1"
  home=$(getent passwd "$1" | cut -d: -f6)
  group=$(id -gn "$1")
  install -d -m 0700 -o "$1" -g "$group" "$home/.ssh"
  put "$work/authorized_keys" "$home/.ssh/authorized_keys" 0600 "$1:$group"
  mkdir -p /etc/ssh/sshd_config.d
  echo 'PasswordAuthentication no' >/etc/ssh/sshd_config.d/50-holdfast.conf
  systemctl enable ssh.service || say "no SSH server here"
}

set_wifi() {
  country=$(cat "$work/wifi-country" 2>/dev/null || true)
  if [ -x /usr/lib/raspberrypi-sys-mods/imager_custom ]; then
    /usr/lib/raspberrypi-sys-mods/imager_custom set_wlan "$(cat "$work/wifi-ssid")" "$(cat "$work/wifi-password")" "$country"
    return
  fi
  if [ -d /etc/NetworkManager ]; then
    put "$work/wifi.nmconnection" /etc/NetworkManager/system-connections/holdfast-wifi.nmconnection 0600
    return
  fi
  put "$work/wpa_supplicant.conf" /etc/wpa_supplicant/wpa_supplicant-wlan0.conf 0600
  systemctl enable wpa_supplicant@wlan0.service || say "no wpa_supplicant here: Wi-Fi is not set up"
}

system() {
  unpack
  if [ -f "$work/hostname.txt" ]; then set_hostname "$(cat "$work/hostname.txt")"; fi
  if [ -f "$work/timezone" ]; then set_timezone "$(cat "$work/timezone")"; fi
  if [ -f "$work/authorized_keys" ]; then set_ssh "$(cat "$work/user")"; fi
  if [ -f "$work/wifi-ssid" ]; then set_wifi; fi
  sync
}

# --- the node -----------------------------------------------------------------------------------------------------------

unit() { # NAME VERB DESCRIPTION ORDER
  cat >"$units/$1.new" <<U
[Unit]
Description=$3
$4
[Service]
Type=oneshot
ExecStart=/bin/sh $here/holdfast-first-boot.sh $2
StandardOutput=journal+console
StandardError=journal+console
TimeoutStartSec=infinity
[Install]
WantedBy=multi-user.target
U
  mv "$units/$1.new" "$units/$1"
  mkdir -p "$units/multi-user.target.wants"
  ln -sf "../$1" "$units/multi-user.target.wants/$1"
}

arm() {
  if [ ! -e "$here/holdfast.tar" ] && [ ! -e "$here/holdfast-k3s.tar" ]; then return 0; fi
  # As early as the agent itself: nothing here waits for a network.
  unit holdfast-first-boot.service run 'Holdfast: first boot of this card' "DefaultDependencies=no
RequiresMountsFor=$here
After=local-fs.target systemd-tmpfiles-setup.service
Conflicts=shutdown.target
Before=shutdown.target"
  if [ -e "$here/holdfast-k3s.tar" ]; then
    unit holdfast-k3s-install.service k3s 'Holdfast: installation of K3s' "RequiresMountsFor=$here
After=holdfast-first-boot.service"
  fi
  sync
  if [ "${1:-}" = start ]; then
    systemctl daemon-reload
    if [ -e "$here/holdfast.tar" ]; then systemctl start --no-block holdfast-first-boot.service; fi
    if [ -e "$here/holdfast-k3s.tar" ]; then systemctl start --no-block holdfast-k3s-install.service; fi
  fi
}

disarm() { # UNIT
  rm -f "$units/multi-user.target.wants/$1" "$units/$1"
}

user() {
  getent passwd holdfast >/dev/null || systemd-sysusers "$work/sysusers.conf"
}

# restore brings back what --keep-identity saved of the card that was here before: key, enrolment, and readings not yet in the cloud.
restore() {
  if [ -e "$here/holdfast-state.tar.gz" ] && [ ! -e "$data/agent.key" ]; then
    say "step: restore what the card before held"
    rm -rf "$data.restoring"
    mkdir -m 0700 "$data.restoring"
    tar -xzf "$here/holdfast-state.tar.gz" -C "$data.restoring"
    own "$data.restoring"
  elif [ -e "$work/data/agent.key" ] && [ ! -e "$data/agent.key" ]; then
    rm -rf "$data.restoring"
    cp -r "$work/data" "$data.restoring"
    own "$data.restoring"
  else
    return 0
  fi
  sync
  if [ -d "$data" ]; then rmdir "$data"; fi
  mv -T "$data.restoring" "$data"
  sync
}

own() {
  chown -R holdfast:holdfast "$1"
  chmod -R u=rwX,go= "$1"
}

settings() {
  for f in "$work"/etc/*; do
    if [ -f "$f" ]; then put "$f" "/etc/holdfast/$(basename "$f")" 0640 root:holdfast; fi
  done
  if [ -f "$work/ssh" ] && systemctl enable ssh.service; then systemctl start --no-block ssh.service; fi
  if [ -f "$work/watchdog.conf" ]; then put "$work/watchdog.conf" /etc/systemd/system.conf.d/holdfast-watchdog.conf 0644; fi
}

package() {
  arch=$(dpkg --print-architecture)
  deb=$(echo "$work"/*_"$arch".deb)
  if [ ! -f "$deb" ]; then
    say "this card has no package for $arch: flash it again with --arch $arch"
    exit 1
  fi
  dpkg --configure -a --force-confold # what a cut left half done
  want=$(dpkg-deb -f "$deb" Version)
  # shellcheck disable=SC2016 # dpkg-query's own variables
  have=$(dpkg-query -W -f '${Status} ${Version}' holdfast-edge 2>/dev/null || true)
  if [ "$have" = "install ok installed $want" ]; then return 0; fi
  DEBIAN_FRONTEND=noninteractive dpkg -i --force-confold "$deb"
}

run() {
  # What was complete is not begun again: a cut while the archive was being deleted may have left a piece of it.
  if [ -e "$here/holdfast.tar" ] && [ ! -e "$work/complete" ]; then
    say "step: unpack"
    unpack
    user
    restore
    say "step: settings"
    settings
    say "step: install the package"
    package
    : >"$work/complete"
    sync
  fi
  say "step: remove secrets from the boot partition"
  rm -f "$here/holdfast-state.tar.gz"
  sync
  rm -f "$here/holdfast.tar"
  sync
  disarm holdfast-first-boot.service
  rm -rf "$work"
  sync
  say "this card is a node"
}

k3s() {
  if [ -e "$here/holdfast-k3s.tar" ]; then
    kit=$work-k3s
    rm -rf "$kit"
    mkdir -m 0700 "$kit"
    tar -xf "$here/holdfast-k3s.tar" -C "$kit"
    say "step: install K3s"
    # The arguments are one a line. xargs -a would read quotes in them.
    set -- --data-user "$(id -u holdfast)"
    while IFS= read -r arg; do set -- "$@" "$arg"; done <"$kit/arguments"
    (cd "$kit" && bash scripts/k3s-install "$@")
    sync
    rm -f "$here/holdfast-k3s.tar"
    rm -rf "$kit"
  fi
  disarm holdfast-k3s-install.service
  sync
  say "K3s is installed"
}

case ${1:-} in
  system) system ;;
  arm) arm start ;;
  arm-only) arm ;;
  run) run ;;
  k3s) k3s ;;
  *)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
    exit 2
    ;;
esac
