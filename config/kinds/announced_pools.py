"""The fields by which every kind of advertisement says which pools it announces; one meaning, so one text."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from config.kinds.meta import LabelSelector

PoolNames = Annotated[
    tuple[str, ...],
    Meta(description="Pools to announce, by name. A pool that does not exist (yet) is not an error."),
]
PoolSelectors = Annotated[
    tuple[LabelSelector, ...],
    Meta(description="Pools to announce, by label; added to the ones listed by name. With neither, all pools are announced."),
]
