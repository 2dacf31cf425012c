"""In which order a worker computes the prompts in its line: the engine sorts by it, and routers reckon with it.

    rank = seconds of work left - ageing x seconds waited - PRIORITY_S x priority      leastWork
    rank =                        -          seconds waited - PRIORITY_S x priority      fcfs

Least first. Seconds waited grow for all alike, so which of two goes first does not change while they wait, and a time
of arrival does for them. What a level of priority weighs is bounded, so whoever waits long enough gets his turn: with
the default ageing of 0.25 a level is made up for by 40 seconds of waiting.
"""

from enum import StrEnum
from typing import NamedTuple

PRIORITY_S = 10.0
"""Seconds of work (fcfs: of waiting) that one level of priority outweighs."""


class Order(StrEnum):
    """Order of the line of prompts."""

    LEAST_WORK = "leastWork"
    FCFS = "fcfs"


class Discipline(NamedTuple):
    """How an engine orders its line. `ageing`: seconds of work that one second of waiting outweighs."""

    order: Order = Order.LEAST_WORK
    ageing: float = 0.25

    def key(self, seconds: float, since: float, priority: int = 0) -> float:
        """The least goes first. `seconds`: the work that is left of a prompt; `since`: when it began to wait."""
        return (0.0 if self.order is Order.FCFS else seconds) + self.offset(since, priority)

    def offset(self, since: float, priority: int = 0) -> float:
        """What of the key does not depend on the work."""
        return (since if self.order is Order.FCFS else self.ageing * since) - PRIORITY_S * priority


RESOURCE_DEFAULTS = Discipline()
