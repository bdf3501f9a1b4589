"""A node: the chip's temperature is the sample, the button its label.

README.md says what to copy beside it.  Hold the button while a finger warms the chip: that sample is
labelled `touched`, any other `free`.  Once the gateway has trained, the board says what it thinks.
"""

import time
from array import array

import board

from fednode.node import Node

READINGS = 16  # in a sample
EVERY_MS = 250


def main():
    settings = board.read("node.json")
    temperature, touched = board.sensors()
    online = board.wifi()
    while settings["tls"] and not online():
        time.sleep_ms(EVERY_MS)
    node = Node(settings, board.client(settings))
    readings = array("h", bytes(2 * READINGS))
    while True:
        for i in range(READINGS):
            readings[i] = int(temperature())
            if online():
                node.poll()
            time.sleep_ms(EVERY_MS)
        label = "touched" if touched() else "free"
        node.sample(readings, 0.01, label)
        print(
            "%.2f degrees, %s; the head says %s; %d to send%s"
            % (
                readings[-1] / 100,
                label,
                node.predict(readings, 0.01),
                len(node.ring),
                "; " + repr(node.error) if node.error else "",
            )
        )


main()
