"""What can go wrong, named by whose bytes or words were wrong.

A peer's bytes raise a WireError and are dropped by the core; an operator's settings raise a ConfigError at start. Refusals
inside the protocol (an old incarnation, a name conflict) are not errors: they are rules, and live in members.py.
"""

from __future__ import annotations


class MemberlistError(Exception):
    """Base of everything this package raises on purpose; never raised bare."""


class ConfigError(MemberlistError):
    """A setting that cannot work; the text names the setting, the value and the remedy."""


class WireError(MemberlistError):
    """Bytes from a peer that this package does not act on."""


class DecodeError(WireError):
    """Bytes that are cut, out of range, or not of the form the protocol prescribes."""


class AuthError(WireError):
    """Bytes that no key of the ring opens, plain bytes where encrypted ones are required, or a foreign label."""


class UnsupportedError(WireError):
    """Well-formed bytes of a kind that is not accepted here, such as an unknown message type."""
