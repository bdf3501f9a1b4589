"""Stands in for an ESP32's module: the button is not down."""

import sys


class Pin:
    IN = PULL_UP = 1

    def __init__(self, *how):
        assert how == (0, self.IN, self.PULL_UP)

    def value(self):
        return 1


def deepsleep(ms):
    print("asleep for %d ms" % ms)
    sys.exit()
