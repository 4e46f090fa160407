"""Waits for the next request of a program that has just been answered.

A program that asks one thing after the other asks again within some ten microseconds. To sleep until then is what
costs most: a processor that has gone idle takes 30 to 80 us to wake, in a virtual machine more than the answer itself.
So a wait here looks again and again for a moment, as network drivers do that poll while they are busy; and only
while that is of use, which is when the request before came as soon. A mount that nobody talks to sleeps.
"""

import os
from collections.abc import Callable
from os import sched_yield
from select import select
from time import perf_counter
from typing import Final

_SPIN_S: Final = 0.0001
"""How long it polls for the next request without sleep."""

_NAP_S: Final = 0.0002
"""How long it waits for the request in one system call. trio's way takes four, and as long as the answer."""

_MOST_FDS: Final = 1024  # `select`'s limit; it alone of its kind takes less than a millisecond
_LOOKS: Final = 4


class Linger:
    """Decides how to wait for the next request.

    Attributes:
        is_talking: Whether the last request came so soon that polling for the next is worth it.
    """

    def __init__(self, fd: int, clock: Callable[[], float] = perf_counter) -> None:
        """Takes the descriptor that becomes readable when there is a request."""
        self._fds = (fd,)
        self._clock = clock
        self._is_able = fd < _MOST_FDS
        # On one processor, a busy wait keeps the program from asking that it waits for.
        self._may_spin = len(os.sched_getaffinity(0)) > 1
        self.is_talking = False

    def is_asked_soon(self) -> bool:
        """Waits for a moment, and returns whether there is a request now. Other threads go on meanwhile."""
        if not self._is_able:
            return False
        clock, fds = self._clock, self._fds
        began = clock()
        if self.is_talking:
            while clock() - began < _SPIN_S:
                for _ in range(_LOOKS):
                    if select(fds, (), (), 0)[0]:
                        return True
                sched_yield()  # other processes that want this processor go first
            self.is_talking = False
            return bool(select(fds, (), (), _NAP_S)[0])
        is_asked = bool(select(fds, (), (), _NAP_S)[0])
        self.is_talking = is_asked and self._may_spin and clock() - began < _SPIN_S
        return is_asked
