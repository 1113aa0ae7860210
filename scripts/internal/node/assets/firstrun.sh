#!/bin/sh
# Started once by systemd.run= in cmdline.txt, instead of the rest of the system; then the board restarts. Cut short, it is started again.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
sh "$here/holdfast-first-boot.sh" system
sh "$here/holdfast-first-boot.sh" arm-only

# cmdline.txt keeps its length and its place on the card: one sector is written, so that a cut leaves the old line or the new one.
line=$(head -n 1 "$here/cmdline.txt")
rest=$(printf '%s\n' "$line" | sed 's/ systemd\.run.*//')
printf "%-${#line}s" "$rest" | dd of="$here/cmdline.txt" conv=notrunc,fsync 2>/dev/null
