"""The numbers of a member, in one frozen value, and what they promise.

`lan`, `wan` and `local` are hashicorp/memberlist's presets; `from_json` reads the file with which MetalLB overrides them.
`detection_time_max_s` is the one place where the bound on failure detection is written down. Read by every part of the core;
built by the speaker. Refuses settings that cannot work, with a ConfigError that names the field.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final, TypeAlias

from memberlist.errors import ConfigError
from memberlist.marker import MARK_MAX
from memberlist.measures import NOTHING, PROFILE_NAMES, Measures

IPAddress: TypeAlias = IPv4Address | IPv6Address
IPNetwork: TypeAlias = IPv4Network | IPv6Network

META_MAX: Final = 512  # bytes; Go refuses to start with more
PORT: Final = 7946
_PACKET_MIN: Final = 512
_PACKET_MAX: Final = 65_000  # of the 65,507 bytes of UDP over IPv4; the checksum is not counted in the budget
_PROTOCOL: Final = (1, 5)  # understood from and up to
FLAT_UP_TO: Final = 100  # members; with flat_log the suspicion is as long as in a ring of ten up to here
CHECK_S: Final = 0.05  # how long a kernel may take to answer
WATCH_VERDICT_S: Final = 0.14  # from a watcher's first unanswered ping to its suspicion


@dataclass(frozen=True, slots=True)
class Config:
    """One member's settings. Durations in seconds; an interval of 0 turns that activity off.

    delegate_versions: (min, max, spoken) of the application; MetalLB has (0, 0, 0), serf needs (2, 5, 4).
    relay_patience: the part of probe_timeout_s after which a relay reports that its ping went unanswered. Go waits all of it,
    which is too late for the prober to hear (Lifeguard proposes 0.8).
    protocol_version: the one spoken. Version 1 seals packets in the padded form and takes its own port for everybody's.
    allowed_networks: where members may live; None for everywhere.
    profile: the profile of profiles.py these numbers come from, told to the other members; "" for plain numbers, which never
    change by themselves. measures: what is done beyond the plain algorithm.
    """

    name: str
    bind_address: IPAddress
    bind_port: int = PORT
    advertise_address: IPAddress | None = None
    advertise_port: int | None = None
    meta: bytes = b""
    label: bytes = b""
    protocol_version: int = 2
    delegate_versions: tuple[int, int, int] = (0, 0, 0)
    allowed_networks: tuple[IPNetwork, ...] | None = None
    profile: str = ""
    measures: Measures = NOTHING
    stream_timeout_s: float = 10.0
    indirect_checks: int = 3
    retransmit_mult: int = 4
    suspicion_mult: int = 4
    suspicion_max_mult: int = 6
    push_pull_interval_s: float = 30.0
    probe_interval_s: float = 1.0
    probe_timeout_s: float = 0.5
    relay_patience: float = 0.8
    stream_pings: bool = True
    awareness_max: int = 8
    gossip_interval_s: float = 0.2
    gossip_nodes: int = 3
    gossip_to_the_dead_s: float = 30.0
    dead_reclaim_s: float = 0.0
    verify_incoming: bool = True
    encrypt_outgoing: bool = True
    compress_outgoing: bool = False
    packet_bytes_max: int = 1400
    stream_bytes_max: int = 4 * 1024 * 1024
    members_max: int = 10_000
    inbound_streams_max: int = 127
    inbound_streams_per_source_max: int = 16
    report_pings: bool = False

    def __post_init__(self) -> None:
        _check_names_and_addresses(self)
        _check_numbers(self)

    @property
    def versions(self) -> bytes:
        """The six version bytes every alive message carries."""
        return bytes((*_PROTOCOL, self.protocol_version, *self.delegate_versions))

    @property
    def advertised(self) -> IPAddress:
        """The address other members send to."""
        return self.advertise_address or self.bind_address

    @property
    def meta_max(self) -> int:
        """How many bytes of metadata the application may have: 512, less the mark of a profile."""
        return META_MAX - (MARK_MAX if self.profile else 0)

    def port_of(self, port: int) -> int:
        """Return the port that is meant by one in a message: 0 is this member's own, and so is any in protocol 1."""
        return port if port and self.protocol_version > 1 else self.bind_port

    def allows(self, address: IPAddress) -> bool:
        """Return whether a member may live at this address."""
        networks = self.allowed_networks
        return networks is None or any(address in network for network in networks)


def _check_names_and_addresses(config: Config) -> None:
    if not config.name:
        raise ConfigError("name is empty; a member is named after its Kubernetes node")
    if config.advertised.is_unspecified:
        raise ConfigError(f"bind_address {config.bind_address} tells other members nothing; set advertise_address")
    for field in ("bind_port", "advertise_port"):
        port = getattr(config, field)
        if port is not None and not 0 <= port <= 65535:
            raise ConfigError(f"{field} is {port}; a port is 0 to 65535")
    if len(config.meta) > config.meta_max:
        raise ConfigError(f"meta has {len(config.meta)} bytes; at most {config.meta_max} may be gossiped")
    if config.profile not in {"", *PROFILE_NAMES}:
        raise ConfigError(f"profile is {config.profile!r}; known are {', '.join(PROFILE_NAMES)}")
    if not _PROTOCOL[0] <= config.protocol_version <= _PROTOCOL[1]:
        raise ConfigError(
            f"protocol_version is {config.protocol_version}; this package speaks {_PROTOCOL[0]} to {_PROTOCOL[1]}"
        )
    if any(not 0 <= version <= 255 for version in config.delegate_versions):
        raise ConfigError(f"delegate_versions is {config.delegate_versions}; each is one byte")
    low, high, spoken = config.delegate_versions
    if not low <= spoken <= high:
        raise ConfigError(f"delegate_versions is {config.delegate_versions}; the spoken version must lie in the range")


def _check_numbers(config: Config) -> None:
    least = {
        "stream_timeout_s": 0.001,
        "indirect_checks": 0,
        "retransmit_mult": 1,
        "suspicion_mult": 1,
        "suspicion_max_mult": 1,
        "push_pull_interval_s": 0.0,
        "probe_interval_s": 0.0,
        "probe_timeout_s": 0.001,
        "awareness_max": 1,
        "gossip_interval_s": 0.0,
        "gossip_nodes": 0,
        "gossip_to_the_dead_s": 0.0,
        "dead_reclaim_s": 0.0,
        "packet_bytes_max": _PACKET_MIN,
    }
    for field, low in least.items():
        if not (value := getattr(config, field)) >= low:
            raise ConfigError(f"{field} is {value}; it must be at least {low}")
    if config.packet_bytes_max > _PACKET_MAX:
        raise ConfigError(f"packet_bytes_max is {config.packet_bytes_max}; a datagram holds at most {_PACKET_MAX}")
    if 0 < config.probe_interval_s <= config.probe_timeout_s:
        raise ConfigError(
            f"probe_timeout_s is {config.probe_timeout_s}; it must be below probe_interval_s ({config.probe_interval_s}), "
            "or no time is left to ask other members"
        )


def lan(
    name: str,
    bind_address: IPAddress | str,
    bind_port: int = PORT,
    *,
    advertise_address: IPAddress | str | None = None,
    **settings: Any,
) -> Config:
    """Return the preset for one site: MetalLB's default. Other Config fields may be given by name."""
    advertise = None if advertise_address is None else ip_address(advertise_address)
    return Config(name, ip_address(bind_address), bind_port, advertise, **settings)


def wan(name: str, bind_address: IPAddress | str, bind_port: int = PORT, **settings: Any) -> Config:
    """Return the preset for several sites (MetalLB's --ml-wan-config)."""
    preset = {
        "stream_timeout_s": 30.0,
        "suspicion_mult": 6,
        "push_pull_interval_s": 60.0,
        "probe_interval_s": 5.0,
        "probe_timeout_s": 3.0,
        "gossip_interval_s": 0.5,
        "gossip_nodes": 4,
        "gossip_to_the_dead_s": 60.0,
    }
    return lan(name, bind_address, bind_port, **(preset | settings))


def local(name: str, bind_address: IPAddress | str, bind_port: int = PORT, **settings: Any) -> Config:
    """Return the preset for members on one machine."""
    preset = {
        "stream_timeout_s": 1.0,
        "indirect_checks": 1,
        "retransmit_mult": 2,
        "suspicion_mult": 3,
        "push_pull_interval_s": 15.0,
        "probe_timeout_s": 0.2,
        "gossip_interval_s": 0.1,
        "gossip_to_the_dead_s": 15.0,
    }
    return lan(name, bind_address, bind_port, **(preset | settings))


def suspicion_min_s(config: Config, n: int) -> float:
    """Return how long a suspect may refute at least, in a ring of n known members (dead ones not yet forgotten included).

    suspicion_mult x max(1, log10 n) x probe interval, the middle factor cut to thousandths, as hashicorp/memberlist does. With
    flat_log n counts in hundreds, since the direct sends that go with it reach everybody at once. In the ring profile the
    interval is that of the watchers.
    """
    size = n / FLAT_UP_TO * 10 if config.measures.flat_log else n
    scale = math.floor(1000 * max(1.0, math.log10(max(1, size)))) / 1000
    interval_s = config.measures.watch_interval_s if config.measures.watchers else config.probe_interval_s
    return config.suspicion_mult * scale * interval_s


def confirmations_needed(config: Config, living: int) -> int:
    """Return how many further accusers bring a suspicion down to its minimum; 0 when too few are left to give them.

    `living` counts who is alive or suspect. Go counts the dead and the departed too, until they are forgotten, and then waits
    for confirmations that nobody can give: a crash soon after another took 11 s instead of 5 in a ring of four.
    """
    wanted = config.measures.confirmations
    needed = max(0, config.suspicion_mult - 2 if wanted is None else wanted)
    return 0 if living - 2 < needed else needed


def lone_detection_time_max_s(config: Config, n: int) -> float:
    """Return the bound on the time from a crash to its declaration by one observer that nobody helps, in a ring of n.

    D = W + P + S + C, each at its worst, without packet loss:
      W = (2n - 3) T   the wait until its round-robin reaches the victim: last in this round, last again after the shuffle
      P = A T          the failed probe, at the worst local health (awareness_max A)
      S                the suspicion timer without any confirmation: its maximum, or the minimum where the ring is too small
                       for confirmations
      C                what direct sends and the kernel check add at the end
    With T the probe interval.
    """
    minimum = suspicion_min_s(config, n)
    suspicion = minimum * config.suspicion_max_mult if confirmations_needed(config, n) else minimum
    wait = max(1, 2 * n - 3) * config.probe_interval_s
    return wait + config.awareness_max * config.probe_interval_s + suspicion + _last_checks_s(config)


def _last_checks_s(config: Config) -> float:
    patience_s = hearsay_patience_s(config)
    return patience_s + (CHECK_S if config.measures.kernel_check else 0.0)


def hearsay_patience_s(config: Config) -> float:
    """Return how much longer a member waits that never probed the suspect itself; the accusers will tell it directly."""
    return 2 * config.gossip_interval_s if config.measures.direct_sends else 0.0


def detection_time_max_s(config: Config, n: int) -> float:
    """Return the bound on the time from a crash to the first member that declares it, in a ring of n, without packet loss.

    It is lone_detection_time_max_s, since chance may leave all to one observer. Not so with watchers in good health: at most
    one watch interval until two of them ask, 140 ms until they suspect, the time to refute, and CHECK_S for the kernel and the
    network. All others know within a few gossip intervals more, or at once with direct sends.
    What is usual is detection_time_mean_s.
    """
    measures = config.measures
    if measures.watchers:
        refutation_s = measures.refutation_s if n > 2 else suspicion_min_s(config, n)
        return measures.watch_interval_s + WATCH_VERDICT_S + refutation_s + CHECK_S
    return lone_detection_time_max_s(config, n)


def detection_time_mean_s(config: Config, n: int) -> float:
    """Return the mean of the same time for healthy members, n >= 2.

    W = T (1 - 1/n): the least of n - 1 waits of random phase; P = T; S = the minimum, since confirmations arrive in time. With
    watchers W is half the watch interval (the second of three of random phase), P = 140 ms and S the time to refute.
    """
    measures = config.measures
    if measures.watchers and n > 2:
        return measures.watch_interval_s / 2 + WATCH_VERDICT_S + measures.refutation_s
    return config.probe_interval_s * (2 - 1 / n) + suspicion_min_s(config, n)


# MetalLB's override file: its key, our field, and how the value is read.
_GO_UNITS_S: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_GO_TERM: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_GO_DURATION: Final = re.compile(rf"[+]?(0|({_GO_TERM.pattern})+)")


def _duration(value: object) -> float:
    if not isinstance(value, str) or not _GO_DURATION.fullmatch(value):
        raise ValueError('a duration such as "500ms" or "1m30s"')
    return sum(float(number) * _GO_UNITS_S[unit] for number, unit in _GO_TERM.findall(value))


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("a whole number, 0 or more")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")  # noqa: TRY004  (one exception type for the caller to name the key)
    return value


def _not(value: object) -> bool:
    return not _flag(value)


_Reader: TypeAlias = Callable[[object], object]
_OVERRIDES: Final[Mapping[str, tuple[str | None, _Reader]]] = {
    "TCPTimeout": ("stream_timeout_s", _duration),
    "IndirectChecks": ("indirect_checks", _count),
    "RetransmitMult": ("retransmit_mult", _count),
    "SuspicionMult": ("suspicion_mult", _count),
    "SuspicionMaxTimeoutMult": ("suspicion_max_mult", _count),
    "PushPullInterval": ("push_pull_interval_s", _duration),
    "ProbeTimeout": ("probe_timeout_s", _duration),
    "ProbeInterval": ("probe_interval_s", _duration),
    "DisableTcpPings": ("stream_pings", _not),
    "AwarenessMaxMultiplier": ("awareness_max", _count),
    "GossipNodes": ("gossip_nodes", _count),
    "GossipInterval": ("gossip_interval_s", _duration),
    "GossipToTheDeadTime": ("gossip_to_the_dead_s", _duration),
    "GossipVerifyIncoming": ("verify_incoming", _flag),
    "GossipVerifyOutgoing": ("encrypt_outgoing", _flag),
    "EnableCompression": ("compress_outgoing", _flag),
    "HandoffQueueDepth": (None, _count),  # Messages are acted on at once here: there is no such queue.
    "UDPBufferSize": ("packet_bytes_max", _count),
    "QueueCheckInterval": (None, _duration),  # Go's interval for a metric.
}


def from_json(text: str | bytes, base: Config) -> Config:
    """Return `base` with the settings of MetalLB's memberlist config.json, durations written as in Go.

    Every duration must be there, as MetalLB demands. A number or flag that is missing keeps the value of `base`; MetalLB
    would take 0 or false for it, which nobody can want. ConfigError names the key, the value and what was expected.
    """
    try:
        found = json.loads(text)
    except ValueError as broken:
        raise ConfigError(f"memberlist config.json is not JSON: {broken}") from broken
    if not isinstance(found, dict):
        raise ConfigError("memberlist config.json must hold an object with the keys of MetalLB's memberlist configuration")
    if unknown := sorted(set(found) - set(_OVERRIDES)):
        raise ConfigError(f"memberlist config.json: unknown key {unknown[0]!r}; known are {', '.join(_OVERRIDES)}")
    changes: dict[str, Any] = {}
    for key, (field, read) in _OVERRIDES.items():
        if key not in found:
            if read is _duration:
                raise ConfigError(f'memberlist config.json: {key} is missing; every duration must be given, such as "1s"')
            continue
        try:
            value = read(found[key])
        except ValueError as wanted:
            raise ConfigError(f"memberlist config.json: {key} is {found[key]!r}, expected {wanted}") from None
        if field is not None:
            changes[field] = value
    return replace(base, **changes)
