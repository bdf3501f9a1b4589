"""Stands in for a board's module: connected at the third look."""

STA_IF = 0


class WLAN:
    def __init__(self, interface):
        assert interface == STA_IF
        self.looks = 0

    def active(self, on):
        assert on

    def connect(self, name, password):
        assert (name, password) == ("home", "secret")

    def isconnected(self):
        self.looks += 1
        return self.looks > 2
