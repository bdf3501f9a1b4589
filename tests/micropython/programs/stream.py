"""A node that streams numbered samples; prints what it queued, and what is settled, a line each."""

import json
import sys
import time
from array import array
from struct import unpack

from fednode.node import Node

with open(sys.argv[1]) as file:
    asked = json.load(file)
settings = asked["settings"]
client = __import__(asked.get("client", "fednode.mqtt"), None, None, ["MQTTClient"])
node = Node(
    settings,
    client.MQTTClient("fednode-" + settings["node"], settings["host"], settings["port"], keepalive=60),
    capacity=asked["capacity"],
    keep=asked["keep"],
)
node.retry = (200, 2000)
node.client.limit = 4000


def queued():
    entries = [node.ring.entry(place) for place in node.ring.entries]
    return [unpack("<2h", tail[3:7]) for _, of, tail in entries if not of]


number = 0
version = node.head and node.head.version
print(json.dumps(["boot", node.counters.base, len(node.ring), version]))
while True:
    if number < asked["most"] and len(node.ring) < asked["ahead"]:
        number += 1
        handle = node.sample(array("h", [asked["life"], number]), 0.5, number % 10)
        print(json.dumps(["queued", asked["life"], number]))
        if number % 4 == 0:
            node.label(handle, "again %d" % number)
    before = queued()
    if not node.poll():
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
    if number == asked["most"] and not len(node.ring):
        print(json.dumps(["done", node.ring.dropped]))
        asked["most"] = 0
