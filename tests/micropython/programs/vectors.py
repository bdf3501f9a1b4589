"""Build what a node says, and read what it is told, of the golden vectors; print how it went."""

import json
import sys
from binascii import hexlify, unhexlify

from fednode import cbor
from fednode.channel import keys
from fednode.head import Head
from fednode.hmac import hmac
from fednode.messages import read_ack
from fednode.node import Node


class Client:
    limit = 65536

    def set_callback(self, f):
        pass


with open(sys.argv[1]) as file:
    vectors = json.load(file)
node = Node({key: vectors[key] for key in ("federation", "node", "generation", "secret")}, Client())
node_secret = unhexlify(vectors["secret"])
node.nonce = unhexlify(vectors["nonce"])
node.ring.base = 0
sent = []
node.client.publish = lambda topic, message, _retain, _qos: sent.append((topic.decode(), bytes(message)))


def values(one):
    tag = {"int8": cbor.INT8, "int16": cbor.INT16, "float32": cbor.FLOAT32}[one["dtype"]]
    return tag, unhexlify(one["data"]), one["scale"] and unhexlify(one["scale"])


def said(one):
    """The message of a sample or a label, as the node writes it."""
    if one["name"] == "ask":
        node._publish(node._labels, cbor.put(bytearray(), [node.nonce, 0, 0, None]))
    else:
        tail = bytearray()
        if "data" in one:
            tag, data, scale = values(one)
            cbor.put(tail, (tag, data))
            cbor.put(tail, scale)
        cbor.put(tail, one["label"])
        node.ring.push(-one["counter"], -one.get("of", 0), tail)
        label, body = node._message(len(node.ring) - 1)
        node._publish(node._labels if label else node._samples, body)
    topic, message = sent.pop()
    assert topic == vectors["topics"][one["kind"]]
    return hexlify(message).decode()


def read(one):
    """What an ack or a head says, or why it is refused."""
    try:
        channel, most = (node._heads, 65536) if one["kind"] == "head" else (node._acks, 1536)
        body = channel.open(unhexlify(one["message"]), most)
    except ValueError as error:
        return {"forged": str(error)}
    try:
        if one["kind"] == "ack":
            nonce, below, _, settled = read_ack(cbor.read(body))
            return {"nonce": hexlify(nonce).decode(), "next": below, "settled": settled}
        head = Head(body)
    except ValueError as error:
        return {"bad": str(error)}
    outputs = []
    for found in one.get("predictions", ()):
        sample = values(found)
        outputs.append(([str(output) for output in head.outputs(*sample)], head.predict(*sample)))
    return {"version": head.version, "labels": head.labels, "columns": head.columns, "outputs": outputs}


up = ("sample", "label")
print(
    json.dumps(
        {
            "keys": [hexlify(key).decode() for key in keys(node_secret, vectors["generation"])],
            "hmac": [
                hexlify(hmac(unhexlify(one["key"]), unhexlify(one["data"]))).decode()
                for one in vectors["hmac"]
            ],
            "said": [said(one) for one in vectors["good"] if one["kind"] in up],
            "good": [read(one) for one in vectors["good"] if one["kind"] not in up],
            "bad": [read(one) for one in vectors["bad"] if one["kind"] not in up],
            "forged": [read(one) for one in vectors["forged"] if one["kind"] not in up],
        }
    )
)
