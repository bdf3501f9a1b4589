"""How long a node works on a sample, a message, an ack and a prediction; MicroPython runs it."""

import json
import sys
import time
from array import array
from struct import pack

from fednode import cbor
from fednode.head import Head
from fednode.messages import typed
from fednode.node import Node

SAMPLES, ROUNDS, ROWS = 64, 10, 10


class Client:
    """Takes what it is given: no network is in the figures."""

    def set_callback(self, f):
        pass

    def nothing(self, *_):
        pass

    connect = ping = check_msg = subscribe = publish = nothing


def timed(work, of, took):
    """Note the microseconds of each of so many, where they are the fewest yet."""
    started = time.ticks_us()
    work()
    took.append(time.ticks_diff(time.ticks_us(), started) / of)
    took[:] = [min(took)]


def queue():
    for number in range(SAMPLES):
        node.sample(values, 0.0625, number % 10)


def send():
    while node.ring.sent < len(node.ring):
        node._send_next()


def settle():
    node._on_ack([memoryview(node.nonce), base + node._number + 1, [], []])


with open(sys.argv[1]) as file:
    node = Node(json.load(file), Client())
values = array("b", range(-32, 32))
node.poll()
node._on_ack([memoryview(node.nonce), 1, [], []])
base = node.counters.base
row = pack("<%df" % ROWS, *[0.01] * ROWS)
weights = bytes(37 * number & 255 for number in range(len(values) * ROWS))
head = Head(cbor.put(bytearray(), [[1, 1, 1], [[0, (cbor.INT8, weights), row, row]], []]))
sample = typed(values, 0.0625)
found = {"sample_us": [], "send_us": [], "settle_us": [], "predict_us": []}
for _ in range(ROUNDS):
    timed(queue, SAMPLES, found["sample_us"])
    timed(send, SAMPLES, found["send_us"])
    timed(settle, SAMPLES, found["settle_us"])
    timed(lambda: head.predict(*sample), 1, found["predict_us"])
print(json.dumps({name: round(took[0], 1) for name, took in found.items()}))
