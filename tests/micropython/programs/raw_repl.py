"""A board that mpremote can talk to: a raw REPL on standard input and output, a LittleFS in RAM."""

import os
import sys

import vfs

GREETING = "raw REPL; CTRL-B to exit\r\n>"
BLOCK, BLOCKS = 4096, 64


class Flash:
    def __init__(self):
        self.data = bytearray(BLOCK * BLOCKS)

    def readblocks(self, block, into, offset=0):
        at = block * BLOCK + offset
        into[:] = memoryview(self.data)[at : at + len(into)]

    def writeblocks(self, block, data, offset=0):
        at = block * BLOCK + offset
        self.data[at : at + len(data)] = data

    def ioctl(self, what, _):
        return {4: BLOCKS, 5: BLOCK}.get(what, 0)


flash = Flash()
vfs.VfsLfs2.mkfs(flash)
vfs.umount("/")
vfs.mount(flash, "/")
os.chdir("/")
sys.path[:] = ["", ".frozen", "/lib"]
say = sys.stdout.buffer.write
command, names = bytearray(), {}
while True:
    byte = sys.stdin.buffer.read(1)
    if not byte:
        break
    if byte == b"\x01":
        command = bytearray()
        say(GREETING)
    elif byte == b"\x04" and not command:
        names = {}
        say("OK\r\nMPY: soft reboot\r\n" + GREETING)
    elif byte == b"\x04":
        say("OK")
        try:
            exec(command.decode(), names)  # noqa: S102  what a REPL is for
            say("\x04")
        except Exception as error:
            say("\x04")
            sys.print_exception(error)
        say("\x04>")
        command = bytearray()
    elif byte == b"\x05":
        sys.stdin.buffer.read(2)
        say("R\x00")  # pasting without an echo: understood, and not to be had
    elif command or byte not in b"\r\x02\x03":
        command.extend(byte)
