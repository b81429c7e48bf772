"""Where a ring is found, as people write it: `host`, `host:port`, `[IPv6]:port`, `name/host:port`.

Read by agent.Agent.join and by the command line. Looks nothing up: what a host name means is asked of the resolver when the
member joins, because it may have changed since.
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv6Address

from memberlist.config import PORT
from memberlist.errors import ConfigError

_PORT_MAX = 65535


def parse(text: str, *, port: int = PORT) -> tuple[str, int]:
    """Return host and port of a seed; `port` is taken where the text names none.

    A name in front (`name/`), which Go members use to check who answers, is read and not used. An IPv6 address needs brackets
    when a port follows.

    Raises:
        ConfigError: no host, an empty name, or no port from 1 to 65535.

    """
    name, slash, rest = text.rpartition("/")
    if slash and not name:
        raise ConfigError(f"seed {text!r}: nothing stands before the slash; write NAME/HOST:PORT or HOST:PORT")
    host, port_text = _split(rest, text)
    if not host:
        raise ConfigError(f"seed {text!r} names no host; write HOST or HOST:PORT")
    if port_text is None:
        return host, port
    if not (port_text.isascii() and port_text.isdecimal() and 1 <= int(port_text) <= _PORT_MAX):
        raise ConfigError(f"seed {text!r}: {port_text!r} is no port from 1 to {_PORT_MAX}")
    return host, int(port_text)


def _split(rest: str, text: str) -> tuple[str, str | None]:
    if rest.startswith("["):
        host, bracket, after = rest[1:].partition("]")
        if not bracket or (after and not after.startswith(":")):
            raise ConfigError(f"seed {text!r}: write an IPv6 address with a port as [ADDRESS]:PORT")
        return host, after[1:] if after else None
    if _is_ipv6(rest):
        return rest, None
    host, colon, port_text = rest.partition(":")
    if ":" in port_text:
        raise ConfigError(f"seed {text!r}: write an IPv6 address with a port as [ADDRESS]:PORT")
    return host, port_text if colon else None


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return True
