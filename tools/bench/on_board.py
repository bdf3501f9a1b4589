"""What a node takes of a board's heap, step by step; MicroPython runs it, micropython.py starts it."""

import gc
import json
import sys
import time
from array import array


def used():
    gc.collect()
    return gc.mem_alloc()


with open(sys.argv[1]) as file:
    settings = json.load(file)
found = {"before": used()}

from fednode.mqtt import MQTTClient  # what importing takes is measured
from fednode.node import Node

found["imported"] = used()
node = Node(settings, MQTTClient("fednode", settings["host"], settings["port"], keepalive=60))
node.client.limit = 8192
found["made"] = used()
values = array("b", range(-32, 32))
for number in range(64):
    node.sample(values, 0.0625, number % 10)
found["ring_full"] = used()
started = time.ticks_ms()
while len(node.ring) or not node.head:
    node.poll()
    if time.ticks_diff(time.ticks_ms(), started) > 5000:
        raise OSError("no answer")
found["head"] = used()
node.predict(values, 0.0625)
print(json.dumps(found))
