"""Push, settle and reload entries of a ring as asked; print the entries after each step."""

import json
import sys

from fednode.ring import Ring
from fednode.ringfile import FileRing

with open(sys.argv[1]) as file:
    steps = json.load(file)
ring = None
states = []
for step in steps:
    name, arguments = step[0], step[1:]
    if name == "boot":
        ring = FileRing(*arguments) if len(arguments) > 1 else Ring(*arguments)
    elif name == "push":
        ring.push(arguments[0], arguments[1], arguments[2].encode())
    elif name == "settle":
        ring.settle(arguments[0], arguments[1], this_boot=not arguments[2])
    else:
        getattr(ring, name)(*arguments)
    if ring.durable:
        ring.save()
    entries = [ring.entry(place) for place in ring.entries]
    entries = [[number, of, bytes(tail).decode()] for number, of, tail in entries]
    counters = [ring.counter(entry[0]) for entry in entries] if ring.base is not None else None
    states.append({"entries": entries, "counters": counters, "dropped": ring.dropped})
print(json.dumps(states))
