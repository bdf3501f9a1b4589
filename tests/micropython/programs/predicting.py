"""Send samples with their labels; with each new head print what it finds of every one of them."""

import json
import sys
import time
from array import array

from fednode.messages import typed
from fednode.mqtt import MQTTClient
from fednode.node import Node

with open("node.json") as file:
    settings = json.load(file)
with open(sys.argv[1]) as file:
    samples = [(array("b", values), label) for values, label in json.load(file)]
node = Node(settings, MQTTClient(settings["node"], settings["host"], settings["port"], keepalive=60))
node.retry = (500, 5000)
node.client.limit = 8192
waiting = list(samples)
version = None
settled = False
while True:
    if waiting and len(node.ring) < 32:
        values, label = waiting.pop()
        node.sample(values, 0.0625, label)
    node.poll()
    time.sleep_ms(1)
    if not (waiting or len(node.ring) or settled):
        settled = True
        print(json.dumps(["settled", len(samples)]))
    if node.head and node.head.version != version:
        version = node.head.version
        outputs = [node.head.outputs(*typed(values, 0.0625)) for values, _ in samples]
        classes = [node.head.predict(*typed(values, 0.0625)) for values, _ in samples]
        print(json.dumps(["head", version, outputs, classes]))
