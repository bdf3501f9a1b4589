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
    asked = json.load(file)
found = {"before": used()}

from fednode.mqtt import MQTTClient  # what importing takes is measured
from fednode.node import Node

found["imported"] = used()
settings = asked["settings"]
node = Node(settings, MQTTClient("fednode", settings["host"], settings["port"], keepalive=60))
node.client.limit = 8192
found["made"] = used()
values = array("b", range(-32, 32))
for number in range(64):
    node.sample(values, 0.0625, number % 10)
found["ring_full"] = used()
started = time.ticks_ms()
while node.ring.entries or not node.head:
    node.poll()
    if time.ticks_diff(time.ticks_ms(), started) > 5000:
        raise OSError("no answer")
found["head"] = used()
started = time.ticks_us()
found["class"] = node.predict(values, 0.0625)
found["predict_us"] = time.ticks_diff(time.ticks_us(), started)
print(json.dumps(found))
