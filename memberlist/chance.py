"""The part of random.Random that the core uses, as a type.

The core takes its random numbers as a parameter, so that a simulation can repeat a run exactly, and so that no module of
the core imports `random`. agent.py passes a random.Random; tests pass one with a seed.
"""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Chance(Protocol):
    """A source of random numbers; random.Random satisfies it. Not used for keys or nonces."""

    def random(self) -> float:
        """Return a float in [0, 1)."""
        ...

    def randrange(self, stop: int, /) -> int:
        """Return an integer in [0, stop)."""
        ...

    def getrandbits(self, k: int, /) -> int:
        """Return an integer of k random bits."""
        ...

    def shuffle(self, x: MutableSequence[Any]) -> None:
        """Put the elements into a random order, in place."""
        ...

    def sample(self, population: Sequence[T], k: int) -> list[T]:
        """Return k different elements in random order."""
        ...
