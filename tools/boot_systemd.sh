#!/bin/bash
# Boot the systemd of a Debian folder as PID 1 of fresh namespaces, run a command there, and power it off.
#
#   boot_systemd.sh ROOTFS COMMAND...     e.g. boot_systemd.sh ~/.cache/fedclient/boot systemctl status
#
# The network is this machine's; /proc/sys and /sys are read-only inside.  Needs root and a cgroup2
# hierarchy.  Where the controllers are still on cgroup v1, limits of units (MemoryMax=...) do not bind.
# BOOT_BIND=DIR shows that folder at /in, BOOT_LOG=FILE keeps what systemd said.
set -euo pipefail
rootfs=$(readlink -f -- "$1")
shift
[ "$(id -u)" = 0 ] || { echo "boot_systemd.sh: needs root" >&2 && exit 1; }
hierarchy=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
[ -n "$hierarchy" ] || { echo "boot_systemd.sh: no cgroup2 hierarchy is mounted here" >&2 && exit 1; }
group=$hierarchy/fedclient-$$
log=${BOOT_LOG:-$(mktemp)}

cp -L -- /etc/resolv.conf "$rootfs/etc/resolv.conf"
for unit in systemd-udevd systemd-udev-trigger systemd-sysctl systemd-modules-load systemd-timesyncd console-getty \
    systemd-networkd systemd-resolved mosquitto; do
    ln -sfn /dev/null "$rootfs/etc/systemd/system/$unit.service"
done
for unit in getty.target apt-daily.timer apt-daily-upgrade.timer; do
    ln -sfn /dev/null "$rootfs/etc/systemd/system/$unit"
done
ln -sfn /lib/systemd/system/multi-user.target "$rootfs/etc/systemd/system/default.target"
[ -s "$rootfs/etc/machine-id" ] || : >"$rootfs/etc/machine-id"

# What becomes PID 1: mounts as a container manager makes them, then systemd.
init='
rootfs=$1
mount --bind "$rootfs" "$rootfs"
cd "$rootfs"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty; do
    touch "dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
mkdir -p dev/pts dev/shm dev/mqueue
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs dev/shm
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
if [ -n "${BOOT_BIND-}" ]; then
    mkdir -p in
    mount --bind "$BOOT_BIND" in
fi
mkdir -p .old
pivot_root . .old
cd /
umount -l /.old
mount --make-rshared /
exec env -i container=fedclient PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb \
    /lib/systemd/systemd --log-target=console --log-level=warning
'
mkdir -p -- "$group"
(
    echo "$BASHPID" >"$group/cgroup.procs"
    exec unshare -m -p -f -u -i -C --propagation private --kill-child \
        bash -euc "$init" init "$rootfs" </dev/null >"$log" 2>&1
) &
outer=$!
# Whatever ends this script ends the booted system: its PID 1 is killed with `unshare`.
tidy() {
    kill -KILL "$outer" 2>/dev/null || true
    wait "$outer" 2>/dev/null || true
    for _ in $(seq 50); do
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && break
        sleep 0.1
    done
}
trap tidy EXIT

inside=
for _ in $(seq 100); do
    inside=$(awk '{ print $1 }' "/proc/$outer/task/$outer/children" 2>/dev/null || true)
    [ -z "$inside" ] || [ "$(cat "/proc/$inside/comm" 2>/dev/null)" != systemd ] || break
    sleep 0.1
done
[ -n "$inside" ] || { echo "boot_systemd.sh: it did not start: $(tail -n 1 -- "$log")" >&2 && exit 1; }
enter=(nsenter -t "$inside" -m -p -u -i -C env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb LANG=C.UTF-8 HOME=/root)
state=
for _ in $(seq 300); do
    state=$("${enter[@]}" systemctl is-system-running 2>/dev/null || true)
    case $state in running | degraded) break ;; esac
    kill -0 "$outer" 2>/dev/null || { echo "boot_systemd.sh: systemd ended: $(tail -n 1 -- "$log")" >&2 && exit 1; }
    sleep 0.2
done
echo "boot_systemd.sh: $state after $SECONDS s" >&2

code=0
"${enter[@]}" "$@" || code=$?
"${enter[@]}" systemctl poweroff --no-block >/dev/null 2>&1 || true
for _ in $(seq 100); do
    kill -0 "$outer" 2>/dev/null || break
    sleep 0.1
done
exit "$code"
