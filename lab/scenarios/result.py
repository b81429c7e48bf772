"""What a scenario yields for each run: a frozen msgspec Struct with the attributes of Result, printed as JSON or as a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lab.timeline import Moment


class Result(Protocol):
    """One run of a scenario. str() is a sentence about it."""

    @property
    def seconds(self) -> float:
        """The length that the scenario measures; its median and longest are printed."""

    @property
    def span(self) -> tuple[float, float]:
        """From when to when it was interesting, CLOCK_MONOTONIC; the first is the zero of its timeline."""

    def seen(self) -> Sequence[Moment]:
        """What was seen from outside: by the client, or on the wire. The logs are added to it."""
