"""What a node that wakes, sends one sample and sleeps asks of its flash and of the air, for each wake.

MicroPython runs it, micropython.py starts it.  The flash is a LittleFS in RAM, the client settles everything.
"""

import json
import os
import sys
from array import array

import vfs
from fednode import cbor
from fednode.node import Node

BLOCK, BLOCKS, WAKES = 4096, 64, 500


class Flash:
    """Counts what wears it."""

    def __init__(self):
        self.data = bytearray(BLOCK * BLOCKS)
        self.erases = 0
        self.written = 0

    def readblocks(self, block, into, offset=0):
        at = block * BLOCK + offset
        into[:] = memoryview(self.data)[at : at + len(into)]

    def writeblocks(self, block, data, offset=0):
        at = block * BLOCK + offset
        self.data[at : at + len(data)] = data
        self.written += len(data)

    def ioctl(self, what, _):
        if what == 6:
            self.erases += 1
            return 0
        return {4: BLOCKS, 5: BLOCK}.get(what, 0)


class Client:
    """Broker and device: settles what comes."""

    messages = 0
    next = 1

    def set_callback(self, f):
        self.callback = f
        self.waiting = []

    def nothing(self, *_):
        pass

    connect = subscribe = disconnect = nothing

    def check_msg(self):
        if not self.waiting:
            return None
        self.callback(node._acks.topic, self.waiting.pop(0))
        return 0x30

    def publish(self, _topic, message, _retain, _qos):
        nonce, counter = cbor.read(memoryview(message)[:-16])[:2]
        self.messages += 1
        self.next = max(self.next, counter + 1)
        self.waiting.append(node._acks.seal(cbor.put(bytearray(), [nonce, self.next, [], []])))


with open(sys.argv[1]) as file:
    settings = json.load(file)
found = {}
for keep in (False, "flush", True):
    flash, client = Flash(), Client()
    vfs.VfsLfs2.mkfs(flash)
    vfs.mount(flash, "/flash")
    os.chdir("/flash")
    for wake in range(WAKES + 1):
        if wake == 1:  # the first is another life's end
            flash.erases = flash.written = client.messages = 0
        node = Node(settings, client, keep=keep)
        node.sample(array("h", (wake,)), 1.0)
        while len(node.ring):
            node.poll()
        node.flush(0)
    found["keep %s" % keep] = {
        "messages": round(client.messages / WAKES, 2),
        "flash_bytes": round(flash.written / WAKES),
        "erases_per_1000": round(1000 * flash.erases / WAKES),
    }
    os.chdir("/")
    vfs.umount("/flash")
print(json.dumps(found))
