"""A node on a battery, in the place of main.py: it wakes, reads, sends, and sleeps for ten minutes.

What cannot be sent in time is kept on flash until it can.
"""

import time
from array import array

import board
import machine

from fednode.node import Node

READINGS = 16  # in a sample
SLEEP_MS = 600000
WIFI_MS = 10000
SEND_MS = 10000


def main():
    settings = board.read("node.json")
    online = board.wifi()  # joins while the sample is read
    temperature, touched = board.sensors()
    readings = array("h", [int(temperature()) for _ in range(READINGS)])
    label = "touched" if touched() else None
    started = time.ticks_ms()
    while not online() and time.ticks_diff(time.ticks_ms(), started) < WIFI_MS:
        time.sleep_ms(20)
    node = Node(settings, board.client(settings), keep="flush")
    node.sample(readings, 0.01, label)
    node.flush(SEND_MS if online() else 0)
    machine.deepsleep(SLEEP_MS)


main()
