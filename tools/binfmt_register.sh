#!/bin/sh
# Let this machine run programs of 64-bit and 32-bit ARM with qemu-user: needs root and qemu-user-static.
# Flag F opens the interpreter once, so that a rootfs needs no copy of it.
set -eu
formats=/proc/sys/fs/binfmt_misc
[ -e "$formats/register" ] || mount -t binfmt_misc binfmt_misc "$formats"

# register NAME CLASS MACHINE PROGRAM: little-endian ELF files of that class and machine
register() {
    [ ! -e "$formats/$1" ] || return 0
    [ -x "$4" ] || { echo "binfmt_register.sh: no $4: install qemu-user-static" >&2 && exit 1; }
    zeros='\x00\x00\x00\x00\x00\x00\x00\x00\x00'
    ones='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    printf '%s' ":$1:M::\\x7f\\x45\\x4c\\x46$2\\x01\\x01$zeros\\x02\\x00$3\\x00:$ones:$4:F" >"$formats/register"
}

register qemu-aarch64 '\x02' '\xb7' /usr/bin/qemu-aarch64-static
register qemu-arm '\x01' '\x28' /usr/bin/qemu-arm-static
