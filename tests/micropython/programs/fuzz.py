"""Read changed, cut and invented bodies of acks and heads; anything but a ValueError ends this program."""

import json
import random
import sys
from struct import pack

from fednode import cbor
from fednode.head import Head
from fednode.messages import read_ack

with open(sys.argv[1]) as file:
    asked = json.load(file)
random.seed(asked["seed"])
row = [1, (cbor.INT8, b"\1\2\3\4"), pack("<2f", 0.5, 0.25), pack("<2f", 1, -1)]
bodies = (
    cbor.put(bytearray(), [bytes(8), 300, [[302, 5], [400, 1]], [7, 9]]),
    cbor.put(bytearray(), [[1, 2, 3], [row, row], ["a", "b"]]),
)
taken = refused = 0
for _ in range(asked["count"]):
    which = random.getrandbits(1)
    body = bytearray(bodies[which])
    for _ in range(random.randrange(1, 4)):
        at = random.randrange(len(body))
        how = random.randrange(4)
        if how == 0:
            body[at] ^= 1 << random.randrange(8)
        elif how == 1:
            body[at] = random.choice(b"\x00\x18\x1b\x40\x5b\x60\x80\x9b\xa0\xc0\xd8\xf6\xff")
        elif how == 2:
            body = body[: at + 1]
        else:
            body = body[:at] + bytes([random.getrandbits(8)]) + body[at:]
    try:
        if which:
            head = Head(body)
            head.outputs(cbor.INT8, bytes(head.columns), pack("<f", 1))
        else:
            read_ack(cbor.read(body))
        taken += 1
    except ValueError:
        refused += 1
print(json.dumps({"taken": taken, "refused": refused}))
