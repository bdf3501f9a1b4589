"""Use counters until killed, a line for each, after what the slots said."""

import json
import sys

from fednode.counters import Counters

with open(sys.argv[1]) as file:
    asked = json.load(file)
counters = Counters(stride=asked["stride"])
print(json.dumps([counters.base, counters.floor]))
if counters.base is None:
    counters.begin(asked["begin"])
counter = counters.base
for _ in range(asked["most"]):
    counter += 1
    counters.reserve(counter)
    print(counter)
    if asked["floor"] and counter % 5 == 0:
        counters.raise_floor([1, counter, 0])
