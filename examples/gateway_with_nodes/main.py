"""A node whose sensor is a file: it shows its gateway handwritten digits, and tries each head on others.

On its flash, beside fednode/: node.json (`fedclient nodes export-secrets` prints it), and what split.py made.
"""

import json
import time
from array import array

from fednode.mqtt import MQTTClient
from fednode.node import Node

PIXELS = 64
SCALE = 1 / 16  # a pixel is 0 to 16
EVERY_MS = 10  # between two samples


def rows(path):
    """Yield pixels and digit, row by row: the whole file would not fit in a board's memory."""
    with open(path, "rb") as file:
        row = file.read(PIXELS + 1)
        while row:
            yield array("b", row[:PIXELS]), row[PIXELS]
            row = file.read(PIXELS + 1)


def tried(node):
    """Say how many of the kept digits the head names right, in all and of each kind."""
    seen, right = [0] * 10, [0] * 10
    for pixels, digit in rows("kept.bin"):
        seen[digit] += 1
        right[digit] += node.predict(pixels, SCALE) == digit
    each = " ".join("%d:%d%%" % (digit, 100 * right[digit] // seen[digit]) for digit in range(10))
    return "%d%% right  %s" % (100 * sum(right) // sum(seen), each)


def main():
    with open("node.json") as file:
        told = json.load(file)
    name = told["node"]
    client = MQTTClient(
        "fednode-" + name, told["host"], told["port"], told["username"], told["password"], keepalive=60
    )
    client.limit = 8192  # the largest head this board takes
    node = Node(told, client)
    samples = rows("samples.bin")
    version = error = None
    while True:
        if len(node.ring.entries) < 32:
            sample = next(samples, None)
            if sample:
                node.sample(sample[0], SCALE, sample[1])
        node.poll()
        if repr(node.error) != error:
            error = repr(node.error)
            print("%s: %s" % (name, "connected" if node.connected else "no connection: " + error))
        if node.head and node.head.version != version:
            version = node.head.version
            print("%s: head %d.%d (revision %d)  %s" % ((name,) + tuple(version) + (tried(node),)))
        time.sleep_ms(EVERY_MS)


main()
