"""Print the outputs and the class of each head and sample asked for."""

import json
import sys
from binascii import unhexlify

from fednode.head import Head

with open(sys.argv[1]) as file:
    asked = json.load(file)
found = []
for one in asked:
    head = Head(unhexlify(one["head"]))
    sample = (one["tag"], unhexlify(one["data"]), one["scale"] and unhexlify(one["scale"]))
    found.append([[str(output) for output in head.outputs(*sample)], head.predict(*sample)])
print(json.dumps(found))
