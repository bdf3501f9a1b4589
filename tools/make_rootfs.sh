#!/bin/sh
# A Debian userland in a folder, of this machine's architecture or of another by qemu-user.
#
#   make_rootfs.sh ARCH SUITE DIR [PACKAGE,PACKAGE...]    e.g. make_rootfs.sh arm64 bookworm ~/.cache/fedclient/arm64
#
# Packages beside Debian's minimum: python3, python3-venv, ca-certificates and those named.  They come from
# the mirror that this machine's apt uses for Debian (or $DEBIAN_MIRROR).  Needs root and debootstrap, for
# another architecture qemu-user-static too.  Takes minutes; a folder that was made like this is left as it is.
set -eu
[ $# -ge 3 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2 && exit 2; }
arch=$1 suite=$2 folder=$3 extra=${4-}
die() {
    echo "make_rootfs.sh: $*" >&2
    exit 1
}

made="$arch $suite $extra"
[ "$(cat -- "$folder/.made" 2>/dev/null)" != "$made" ] || exit 0
[ "$(id -u)" = 0 ] || die "needs root"
PATH=$PATH:/usr/sbin:/sbin
command -v debootstrap >/dev/null || die "debootstrap is missing: apt-get install debootstrap"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r "$keyring" ] || die "$keyring is missing: apt-get install debian-archive-keyring"
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 2>/dev/null |
    awk '$1 == "Debian" && $2 !~ /security/ { print $2; exit }')}
[ -n "$mirror" ] || die "apt knows no Debian mirror here: apt-get update, or set DEBIAN_MIRROR"
foreign=
if [ "$arch" != "$(dpkg --print-architecture)" ]; then
    foreign=--foreign
    sh "$(dirname -- "$0")/binfmt_register.sh"
    # Debian 13 is built with pointer authentication, which qemu's default CPU emulates very slowly.
    [ "$arch" != arm64 ] || export QEMU_CPU="${QEMU_CPU:-cortex-a72}"
fi

rm -rf -- "$folder"
mkdir -p -- "$folder"
log=$folder.log
# Mounts of both stages end with their namespace.
unshare -m --propagation private debootstrap --arch="$arch" ${foreign:+"$foreign"} --variant=minbase \
    --include="python3,python3-venv,ca-certificates${extra:+,$extra}" \
    --keyring="$keyring" "$suite" "$folder" "$mirror" >"$log" 2>&1 ||
    die "the first stage failed: $(tail -n 1 -- "$log") (all of it: $log)"
if [ -n "$foreign" ]; then
    unshare -m --propagation private chroot "$folder" /debootstrap/debootstrap --second-stage >>"$log" 2>&1 ||
        die "the second stage failed: $(tail -n 1 -- "$log") (all of it: $log)"
fi
rm -rf -- "$folder"/var/cache/apt/archives/*.deb
printf '%s\n' "$made" >"$folder/.made"
