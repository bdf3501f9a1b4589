"""A node that streams numbered samples; prints what it queued, and what is settled, a line each."""

import json
import sys
import time
from array import array
from struct import unpack

from fednode.mqtt import MQTTClient
from fednode.node import Node

with open(sys.argv[1]) as file:
    asked = json.load(file)
settings = asked["settings"]
node = Node(
    settings,
    MQTTClient("fednode-" + settings["node"], settings["host"], settings["port"], keepalive=60),
    capacity=asked["capacity"],
    keep=asked["keep"],
)
node.retry = (200, 2000)
node.client.limit = 4000


def queued():
    return [unpack("<2h", entry[2][3:7]) for entry in node.ring.entries if not entry[1]]


number = 0
version = node.head and node.head.version
print(json.dumps(["boot", node.counters.base, len(node.ring.entries), version]))
while True:
    if number < asked["most"] and len(node.ring.entries) < asked["ahead"]:
        number += 1
        handle = node.sample(array("h", [asked["life"], number]), 0.5, number % 10)
        print(json.dumps(["queued", asked["life"], number]))
        if number % 4 == 0:
            node.label(handle, "again %d" % number)
    before = queued()
    if not node.poll():
        node._wait_connect = min(node._wait_connect, 100)
        node._connect_due = min(node._connect_due, node._after(100))
        time.sleep_ms(5)
    time.sleep_ms(asked.get("pause_ms", 0))
    after = queued()
    for one in before:
        if one not in after:
            print(json.dumps(["settled", one[0], one[1]]))
    if node.head and node.head.version != version:
        version = node.head.version
        print(json.dumps(["head", version, node.predict(array("h", [3, -5]), 0.5)]))
    if node.refused and not asked.get("quiet"):
        print(json.dumps(["refused", node.refused]))
        node.refused = 0
    if number == asked["most"] and not node.ring.entries:
        print(json.dumps(["done", node.ring.dropped]))
        asked["most"] = 0
