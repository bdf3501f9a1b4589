"""A node that streams rows of a file, and says what each head that comes makes of some of them."""

import json
import sys
import time
from array import array

from fednode.mqtt import MQTTClient
from fednode.node import Node

with open(sys.argv[1]) as file:
    asked = json.load(file)
settings, values, asked_of = asked["settings"], asked["values"], asked["predict"]
node = Node(
    settings, MQTTClient("fednode-" + settings["node"], settings["host"], settings["port"], keepalive=60)
)
node.retry = (500, 5000)


def row(file, number):
    """Return a row's values, and its label: the byte behind them."""
    file.seek(number * (values + 1))
    data = file.read(values + 1)
    return array("b", data[:values]), data[values]


number, version = 0, None
with open(asked["file"], "rb") as file:
    while True:
        if number < asked["rows"] and len(node.ring) < 32:
            x, label = row(file, number)
            node.sample(x, asked["scale"], label)
            number += 1
        if not node.poll():
            time.sleep_ms(20)
        if number == asked["rows"] and not len(node.ring):
            print(json.dumps(["settled", number]))
            asked["rows"] = 0
        if node.head and node.head.version != version:
            version = node.head.version
            found = [node.predict(row(file, one)[0], asked["scale"]) for one in range(asked_of)]
            print(json.dumps(["head", version, found]))
        if not asked["rows"]:
            time.sleep_ms(20)
