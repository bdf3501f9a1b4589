"""What a node does when, on a clock of our own that begins anew like a board's; prints it with its time."""

import json
from array import array

from fednode import cbor, timer
from fednode.node import Node

PERIOD = 1 << 30  # ms, as on a board
DAY = 24 * 3600 * 1000


class Clock:
    now = PERIOD - 3000

    def ticks_ms(self):
        return self.now % PERIOD

    def ticks_diff(self, one, other):
        return (one - other + PERIOD // 2) % PERIOD - PERIOD // 2


class Client:
    keepalive = 60

    def __init__(self):
        self.sent = []

    def set_callback(self, f):
        pass

    def nothing(self, *_):
        return None

    subscribe = check_msg = nothing

    def connect(self):
        self.sent.append([clock.now - start, "connect"])

    def ping(self):
        self.sent.append([clock.now - start, "ping"])

    def publish(self, topic, message, _retain, _qos):
        counter = cbor.read(memoryview(message)[:-16])[1]
        number = counter and counter - node.counters.base
        self.sent.append([clock.now - start, topic.decode().split("/")[-1], number])


def poll(ms):
    """Poll each 100 ms; return what was sent, and when."""
    global start
    node.client.sent = []
    start = clock.now
    for _ in range(ms // 100):
        node.poll()
        clock.now += 100
    return node.client.sent


def settled(below, count=0):
    """All numbers below, and so many that follow one that is missing."""
    base = node.counters.base
    ranges = [[base + below + 1, count]] if count else []
    node._on_ack([memoryview(node.nonce), base + below, ranges, []])


clock = timer.time = Clock()
node = Node({"federation": "local", "node": "a", "generation": 1, "secret": "00" * 32}, Client())
found = {"asked": poll(20000)}  # the ticks begin anew at 3000
node._on_ack([memoryview(node.nonce), 1, [], []])
values = array("b", (1,))
node.sample(values, 1.0)
poll(1000)
clock.now += 7 * DAY
found["after a week"] = poll(2000)
settled(2)

# The first of these is lost, while those behind it are settled all the time.
sent = []
for number in range(2, 10):
    node.sample(values, 1.0)
    sent += poll(500)
    settled(2, number - 2)
found["numbers"] = [one[2] for one in sent]

# Nobody answers: after the longest wait it connects anew, and again after the next.
node.ring.settle(1 << 53, [])
node.retry = (2000, 8000)
node.sample(values, 1.0)
found["silence"] = poll(45000)
print(json.dumps(found))
