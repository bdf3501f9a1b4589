"""Lives of a node on a real file system in RAM; at one write of flash after the other something goes wrong.

Either the power goes in the middle of that write, or the flash takes nothing from then on.  The client is
broker and device in one: it remembers what each counter was used for.
"""

import json
import os
import random
import sys
from array import array
from struct import pack

import vfs
from fednode import cbor
from fednode.counters import Counters
from fednode.node import Node

BLOCK, BLOCKS = 512, 64
SETTINGS = {"federation": "local", "node": "a", "generation": 1, "secret": "00" * 32}


class Flash:
    """Counts what is written; from write number `trouble` on nothing is, or of that one a part."""

    def __init__(self, data, trouble=None, full=False):
        self.data = data
        self.writes = 0
        self.trouble = trouble
        self.full = full

    def readblocks(self, block, into, offset=0):
        at = block * BLOCK + offset
        into[:] = memoryview(self.data)[at : at + len(into)]

    def writeblocks(self, block, data, offset=0):
        at = block * BLOCK + offset
        size = len(data)
        self.writes += 1
        if self.failed():
            if self.writes == self.trouble and not self.full:
                part = random.randrange(size + 1)
                self.data[at : at + part] = memoryview(data)[:part]
            return -5
        self.data[at : at + size] = data
        return 0

    def failed(self):
        return self.trouble and self.writes >= self.trouble

    def ioctl(self, what, _):
        return {4: BLOCKS, 5: BLOCK}.get(what, 0)


class Device:
    """Broker and device: settles what it takes."""

    limit = 8192

    def __init__(self):
        self.used = {}  # what each counter was used for
        self.wrong = []
        self.next = 1
        self.answers = True

    def begin(self, heads):
        self.waiting = []
        self.heads = heads

    def set_callback(self, f):
        self.callback = f

    def nothing(self, *_):
        pass

    connect = ping = subscribe = disconnect = nothing

    def check_msg(self):
        if self.heads:
            self.callback(node._heads.topic, head(self.heads.pop(0)))
        elif self.waiting:
            self.callback(*self.waiting.pop(0))
        else:
            return None
        return 0x30

    def publish(self, _topic, message, _retain, _qos):
        body = cbor.read(memoryview(message)[:-16])
        nonce, counter = bytes(body[0]), body[1]
        if counter:
            if counter >= reserved():
                self.wrong.append("counter %d not reserved" % counter)
            said = [
                bytes(one[1]) if isinstance(one, tuple) else one
                for one in body[2:]
                if not isinstance(one, memoryview)
            ]
            if self.used.get(counter, said) != said:
                self.wrong.append("counter %d twice" % counter)
            self.used[counter] = said
            self.next = max(self.next, counter + 1)
        if self.answers:
            answer = cbor.put(bytearray(), [nonce, self.next, [], []])
            self.waiting.append((node._acks.topic, node._acks.seal(answer)))


def head(version):
    row = pack("<2f", 0.5, 0.25)
    layer = [0, (cbor.INT8, b"\1\2\3\4"), row, row]
    return node._heads.seal(cbor.put(bytearray(), [[1, version, 0], [layer], []]))


def life(number, heads):
    """Return what the node's user saw, until the end or until the power went."""
    global node
    saw = {"queued": [], "head": 0}
    device.begin(heads)
    node = Node(SETTINGS, device, keep=keep)
    node.retry = (1, 2)
    node.counters._stride = 3
    boots.append(node.head.version[1] if node.head else 0)
    for step in range(8):
        known = node.counters.base is not None
        device.answers = step not in (3, 4, 5)
        node.sample(array("h", (number, step)), 1.0, "step")
        if keep and known and not node.error:
            saw["queued"].append((number, step))
        for _ in range(3):
            if flash.failed() and not flash.full:
                return saw
            node._flash.start(0)  # no patience with a flash that took nothing
            node.poll()
        saw["head"] = node.head.version[1] if node.head else 0
    return saw


def reserved():
    """Return the end of what a node that boots now would find reserved."""
    vfs.mount(getattr(vfs, name)(Flash(bytearray(flash.data))), "/look")
    end = Counters("/look/", stride=0).end
    vfs.umount("/look")
    return end


def stored():
    return [said[0] for said in device.used.values()]


def mounted(made):
    global flash
    flash = made
    vfs.mount(getattr(vfs, name)(made), "/flash")
    os.chdir("/flash")


def unmounted():
    os.chdir("/")
    vfs.umount("/flash")


def tried(image, trouble, full):
    """Return what went wrong after trouble at this write of flash, and whether there was any."""
    global device
    device = Device()
    device.next = before
    device.used = dict(used)
    boots.clear()
    mounted(Flash(bytearray(image), trouble, full))
    first = life(2, [2])
    unmounted()
    failed = flash.failed()
    mounted(Flash(flash.data))
    second = life(3, [])
    unmounted()
    there = stored()
    wrong = device.wrong[:2]
    wrong += ["lost %d %d" % one for one in first["queued"] if pack("<2h", *one) not in there]
    wrong += ["not sent %d %d" % one for one in second["queued"] if pack("<2h", *one) not in there]
    if boots[-1] < first["head"]:
        wrong.append("head %d after %d" % (boots[-1], first["head"]))
    return wrong, failed


with open(sys.argv[1]) as file:
    asked = json.load(file)
random.seed(asked["seed"])
name, boots = asked["system"], []
device = Device()
fresh = Flash(bytearray(BLOCK * BLOCKS))
getattr(vfs, name).mkfs(fresh)
keep = True
mounted(fresh)
image = fresh.data
life(1, [1])
unmounted()
used, before = dict(device.used), device.next
failed, times = [], 0
for keep in (True, False):  # noqa: B007  life reads it
    trouble, happened = 1, True
    while happened:
        wrong, happened = tried(image, trouble, asked["full"])
        if wrong:
            failed.append([trouble, wrong])
        trouble += 1
        times += happened
print(json.dumps({"times": times, "failed": failed}))
