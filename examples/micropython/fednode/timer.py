"""Waiting with a counter of milliseconds that begins anew after 12 days."""

import os
import time


class Timer:
    """Over when so many milliseconds have passed since `start`; waits are of minutes.

    After half the range of ticks (6 days: nobody looked for so long) a difference turns negative: over too.
    """

    def __init__(self) -> None:
        self.start(0)

    def start(self, wait: int) -> None:
        self._since = time.ticks_ms()
        self._wait = wait

    def start_about(self, wait: int) -> None:
        """Up to a quarter longer, or all nodes of a house would come at once."""
        self.start(wait + wait * os.urandom(1)[0] // 1024)

    def is_over(self) -> bool:
        return not 0 <= time.ticks_diff(time.ticks_ms(), self._since) < self._wait
