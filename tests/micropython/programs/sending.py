"""What a node sends and when, with a client that only writes down; prints counters and times."""

import json
import time
from array import array

from fednode import cbor
from fednode.node import Node


class Client:
    sock = None

    def __init__(self):
        self.sent = []
        self.pings = 0

    def set_callback(self, f):
        pass

    def connect(self):
        pass

    def subscribe(self, topic, qos):
        pass

    def check_msg(self):
        return None

    def ping(self):
        self.pings += 1

    def publish(self, topic, message, _retain, qos):
        body = cbor.read(memoryview(message)[:-16])
        self.sent.append((body[1], time.ticks_ms(), qos, topic.decode().split("/")[-1]))


def made():
    settings = {"federation": "local", "node": "a", "generation": 1, "secret": "00" * 32}
    node = Node(settings, Client())
    node.retry = (20, 80)
    node._wait = 20
    return node


def poll(node, done):
    end = time.ticks_add(time.ticks_ms(), 10000)
    while not done() and time.ticks_diff(end, time.ticks_ms()) > 0:
        node.poll()


found = {}
values = array("b", (1, 2))
node = made()
node.sample(values, 1.0)
poll(node, lambda: len(node.client.sent) == 3)
found["unanswered"] = [(counter, kind) for counter, _, _, kind in node.client.sent]

# Answered: counting begins, one message is sent again and again, ever more seldom.
node.client.sent = []
node._on_ack([memoryview(node.nonce), 1, [], []])
begun = node.counters.base
node._wait = 20
poll(node, lambda: len(node.client.sent) == 5)
found["base"] = begun
found["again"] = [(counter - begun, at, qos) for counter, at, qos, _ in node.client.sent]

# One of an earlier boot is not settled: nothing a window above it goes out.
node.ring.settle(1 << 53, [])
node.client.sent = []
node.ring.push(-(begun + 5), 0, b"\xd8\x48\x41\x01\xf6\xf6")
node._number = 1027
node.counters.reserve(begun + 1040)
node.sample(values, 1.0)
node.sample(values, 1.0)
poll(node, lambda: len(node.client.sent) >= 4)
found["held"] = sorted({counter - begun for counter, *_ in node.client.sent})
node.client.sent = []
node._on_ack([memoryview(node.nonce), begun + 6, [], []])
poll(node, lambda: len(node.client.sent) >= 4)
found["released"] = sorted({counter - begun for counter, *_ in node.client.sent})

# Quiet, and half of the time that the broker gives it has passed.
node.ring.settle(1 << 53, [])
node.keepalive = 0.02
node._speak()
poll(node, lambda: node.client.pings)
found["pings"] = node.client.pings

refused = []
for what in (
    lambda: node.sample(array("h", (1,)), 0.0),
    lambda: node.sample(array("h", (1,)), -1.0),
    lambda: node.sample(array("h", (1,)), float("nan")),
    lambda: node.sample(array("h", (1,)), 1e38),
    lambda: node.sample(array("h", (1,))),
    lambda: node.sample(array("f", (1,)), 0.5),
    lambda: node.sample(array("f", (1, float("inf")))),
    lambda: node.sample(array("b", (1,)), 1.0, ""),
    lambda: node.sample(array("b", (1,)), 1.0, "x" * 65),
    lambda: node.sample(array("b", (1,)), 1.0, "a\nb"),
    lambda: node.sample(array("b", (1,)), 1.0, -1),
    lambda: node.sample(array("b", (1,)), 1.0, 1.5),
    lambda: node.sample(array("b", (1,)), 1.0, True),
    lambda: node.label(0, 1),
    lambda: node.label(99999, 1),
):
    try:
        what()
    except ValueError as error:
        refused.append(str(error))
found["refused"] = len(refused)
found["queued"] = len(node.ring)
print(json.dumps(found))
