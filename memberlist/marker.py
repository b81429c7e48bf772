"""The mark in front of a member's metadata that says "I am metallb-py, profile X".

`mlpy1 subsecond;` in ASCII, then the application's own bytes. Go members carry metadata around without a look at it, and a
packet capture shows it in plain words. Whoever lacks it is taken for a foreign member, near which no member goes faster than
`balanced`. Used by members.py and core.py. Refuses to be trusted: it is a courtesy among members that hold the same key.
"""

from __future__ import annotations

from typing import Final

from memberlist.measures import PROFILE_NAMES

_START: Final = b"mlpy1 "
_END: Final = b";"
MARK_MAX: Final = len(_START) + max(map(len, PROFILE_NAMES)) + len(_END)


def marked(profile: str, meta: bytes) -> bytes:
    """Return the metadata behind the mark of a profile; unchanged without a profile."""
    return _START + profile.encode() + _END + meta if profile else meta


def read_mark(meta: bytes) -> tuple[str, bytes]:
    """Return the profile a member was given and the application's own metadata; "" for a member without a mark.

    A profile that this version does not know is still a mark: its name is returned as it is, at most 32 bytes long.
    """
    if not meta.startswith(_START):
        return "", meta
    name, end, rest = meta[len(_START) :].partition(_END)
    if not end or not 0 < len(name) <= 32 or not name.isalnum():
        return "", meta
    return name.decode("ascii"), rest
