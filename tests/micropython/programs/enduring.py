"""A node with a client that answers by itself: many samples, labels, acks and heads in one life."""

import gc
import json
import os
import random
import sys
from array import array
from struct import pack

from fednode import cbor
from fednode.node import Node

VALUES, ROWS = 64, 10


class Client:
    """The broker and the device: one message in eight is lost, and so are three answers in four."""

    limit = 8192

    def __init__(self):
        self.next = None
        self.above = []  # taken, and above one that is missing
        self.waiting = []

    def set_callback(self, f):
        self.callback = f

    def nothing(self, *_):
        pass

    connect = ping = subscribe = nothing

    def check_msg(self):
        if not self.waiting:
            return None
        self.callback(*self.waiting.pop(0))
        return 0x30

    def publish(self, _topic, message, _retain, _qos):
        counter = cbor.read(memoryview(message)[:-16])[1]
        if counter and random.getrandbits(3):
            self.next = self.next or counter
            if counter >= self.next and counter not in self.above:
                self.above.append(counter)
            while self.next in self.above:
                self.above.remove(self.next)
                self.next += 1
        if not random.getrandbits(2):
            self.say(node._acks, [node.nonce, self.next or 1, self.ranges(), []])

    def ranges(self):
        self.above.sort()
        found = []
        for counter in self.above:
            if found and counter == sum(found[-1]):
                found[-1][1] += 1
            else:
                found.append([counter, 1])
        return found[:64]

    def say(self, channel, body):
        self.waiting.append((channel.topic, channel.seal(cbor.put(bytearray(), body))))


with open(sys.argv[1]) as file:
    asked = json.load(file)
random.seed(asked["seed"])
settings = {"federation": "local", "node": "a", "generation": 1, "secret": "00" * 32}
node = Node(settings, Client())
node.retry = (4, 20)
row = pack("<%df" % ROWS, *[0.5] * ROWS)
values = array("b", bytes(VALUES))
raised = version = fewest = 0
least = None
for number in range(asked["samples"]):
    values[number % VALUES] = number & 127
    try:
        handle = node.sample(values, 0.5, "label %d" % (number % 1000))
        if number % 5 == 0:
            node.label(handle, "x" * random.randrange(1, 65))
        if number % 100 == 0:
            version += 1
            layer = [0, (cbor.INT8, os.urandom(VALUES * ROWS)), row, row]
            node.client.say(
                node._heads, [[1, version, 0], [layer], ["class %d" % one for one in range(ROWS)]]
            )
        node.predict(values, 0.5)
    except MemoryError:
        raised += 1
    node.poll()
    while len(node.ring) > 60:
        node.poll()
    if number % 500 == 499:
        gc.collect()
        least = gc.mem_free() if least is None else min(least, gc.mem_free())
said = {"raised": raised, "refused": node.refused, "error": repr(node.error), "dropped": node.ring.dropped}
said.update({"version": node.head.version[1], "free": least})
print(json.dumps(said))
