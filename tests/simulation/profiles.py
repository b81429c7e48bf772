"""The configurations that are simulated, by the name under which they are shipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from memberlist.config import Config, lan

PROFILES: Final = ("compat",)


def configure(profile: str) -> Callable[[str, str], Config]:
    """Return what makes a member's configuration of its name and address."""
    return lambda name, address: lan(name, address)
