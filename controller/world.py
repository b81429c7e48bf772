"""Everything that a decision about addresses may depend on, as frozen values.

controller.observe makes these out of Kubernetes objects; controller.plan reads them. No text here still needs parsing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from config.model import Config, IPAddress, PoolName, ServiceKey
from controller.ipam.memory import Remembered
from controller.ipam.sharing import ALONE, Use


class FamilyPolicy(StrEnum):
    """spec.ipFamilyPolicy; absent means SINGLE."""

    SINGLE = "SingleStack"
    PREFER_DUAL = "PreferDualStack"
    REQUIRE_DUAL = "RequireDualStack"


class Family(StrEnum):
    """The families of one or two addresses."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"
    DUAL = "dual"


def family_of(addresses: tuple[IPAddress, ...]) -> Family | None:
    """The family of one address, or of two that differ; None for anything else."""
    match [address.version for address in addresses]:
        case [4]:
            return Family.IPV4
        case [6]:
            return Family.IPV6
        case [4, 6] | [6, 4]:
            return Family.DUAL
        case _:
            return None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Our condition on a Service: whether it has an address, the reason in one word, and a sentence with the facts."""

    assigned: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a Service says about its addresses, in normal form; two equal values need no write.

    `pool` is the output annotation, `verdict` our condition. `plain` says that the status has nothing else in it: no host names, and ipMode VIP
    (which is also what an absent one means, after the API server's defaulting).
    """

    addresses: tuple[IPAddress, ...] = ()
    pool: PoolName | None = None
    plain: bool = True
    verdict: Verdict | None = None


def other_version(version: int) -> int:
    """6 for 4, and 4 for 6."""
    return 6 if version == 4 else 4


NOTHING = Recorded()


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A Service as the controller sees it.

    `wanted_addresses` and `wanted_pool` are the user's requests; `request_problem` says why a request cannot be read, and
    is empty if it can. `created` is an RFC 3339 time, which sorts as text. `primary` is the version (4 or 6) of the first of
    its IP families. `keep_for_s` says how long its addresses outlive it (None: not at all), `keep_problem` why that cannot be
    read.
    """

    key: ServiceKey
    uid: str = ""
    version: str = ""
    created: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    load_balancer: bool = True
    load_balancer_class: str = ""
    cluster_ips: tuple[IPAddress, ...] = ()
    policy: FamilyPolicy = FamilyPolicy.SINGLE
    primary: int = 4
    wanted_addresses: tuple[IPAddress, ...] = ()
    wanted_pool: PoolName | None = None
    request_problem: str = ""
    use: Use = ALONE
    keep_for_s: float | None = None
    keep_problem: str = ""
    deprecated_annotations: tuple[str, ...] = ()
    recorded: Recorded = NOTHING

    @property
    def namespace(self) -> str:
        """The namespace in the key."""
        return self.key.partition("/")[0]

    @property
    def age(self) -> tuple[str, ServiceKey]:
        """Sorts the oldest first; Services of the same second by name."""
        return (self.created, self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All inputs of a plan.

    `lb_class` is the class whose Services are ours; empty means those without a class. `quotas` say how many different
    addresses the Services of a namespace may hold. `memory` is what an earlier process remembered, `now` the time (Unix seconds).
    """

    config: Config
    services: Mapping[ServiceKey, Service]
    lb_class: str = ""
    quotas: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    memory: Mapping[ServiceKey, Remembered] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    now: float = 0.0
