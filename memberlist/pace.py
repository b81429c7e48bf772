"""Which profile is in effect: the one this member was given, or `balanced` while company or network are not fit for it.

A dead statement is believed at once by everybody, so the fastest member decides for all; near members that refute only at their
gossip tick nobody may be faster than balanced. core.py asks whenever the member table or the loss has changed.
"""

from __future__ import annotations

from typing import Final

from memberlist.profiles import slower

CAREFUL: Final = "balanced"


def in_effect(configured: str, *, foreign: str, lossy: bool) -> tuple[str, str]:
    """Return the profile and why.

    foreign: a living member without our mark, "" if there is none. lossy: whether loss.py says so; for profiles that care.
    """
    if foreign and slower(configured, CAREFUL) != configured:
        return CAREFUL, f"{foreign} is not of this package"
    if lossy and slower(configured, CAREFUL) != configured:
        return CAREFUL, "more than 12 % of the first pings went unanswered over 30 s"
    return configured, "all members are of this package" if not foreign else "no faster than foreign members can bear"
