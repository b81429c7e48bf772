"""Rules between objects: a Judge per kind looks at one edition after the other and remembers those it accepted.

config.compile asks them, the most senior object first: where two objects cannot both be in force, the one that comes later
loses. A finding whose code is in SOFT says that something the object refers to is not as it has to be: the object is to
blame for it only if it is new or changed. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Generic, Protocol, TypeVar

from config.check import show
from config.kinds.bfd_profile import BFDProfile
from config.kinds.bgp_advertisement import BGPAdvertisement
from config.kinds.bgp_peer import BGPPeer
from config.kinds.community import Community as CommunityKind
from config.kinds.ip_address_pool import IPAddressPool
from config.kinds.l2_advertisement import L2Advertisement
from config.kinds.meta import Labels, LabelSelector
from config.model import Community, ObjectRef
from config.problem import Finding, Severity
from config.rules import Occupied, overlap
from config.selectors import compile_selector, matches_any
from config.values import COMMUNITY_REMEDY, CommunityFormatError, TextError, parse_community, parse_range, widest_cidr

T_contra = TypeVar("T_contra", contravariant=True)

NATIVE: Final = "native"
FRR_MODES: Final = frozenset({"frr", "frr-k8s"})
BASIC_AUTH: Final = "kubernetes.io/basic-auth"

SOFT: Final = frozenset({"unresolved", "aggregation-length", "family"})
"""Codes of findings that another object's change can cause; an edition that has been in force stays in force with them."""


class References(StrEnum):
    """What to make of a name (of a BFDProfile, a Secret, a community) that nothing has."""

    CHECK = "check"
    """An error: everything there is, is known. The daemons."""
    WARN = "warn"
    """A warning: the rest may be elsewhere. lbctl check."""
    IGNORE = "ignore"
    """Nothing: what is named may be made later. The webhooks."""


@dataclass(frozen=True, slots=True)
class PasswordSecret:
    """What of a Secret matters to a peer."""

    type: str
    has_password: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What beside the configuration objects decides whether they are valid.

    Attributes:
        mode: METALLB_BGP_TYPE: native, frr or frr-k8s; any other switches the rules of a mode off.
        references: how names that nothing has are taken.
        nodes: labels of every Node; None where nodes are not known.
        node: this node's name; peers and BGP advertisements that are not for it are left out. Empty: none are.
        secrets: the Secrets of our namespace by name; None where they are not looked up.

    """

    mode: str = NATIVE
    references: References = References.CHECK
    nodes: Mapping[str, Labels] | None = None
    node: str = ""
    secrets: Mapping[str, PasswordSecret] | None = None

    def matching(self, selectors: tuple[LabelSelector, ...]) -> frozenset[str] | None:
        """The nodes that the selectors allow; None where that cannot be said."""
        if self.nodes is None:
            return None
        if not selectors:
            return frozenset(self.nodes)
        compiled = tuple(compile_selector(one) for one in selectors)
        return frozenset(name for name, labels in self.nodes.items() if matches_any(compiled, labels))

    def is_here(self, selectors: tuple[LabelSelector, ...]) -> bool:
        """Whether something for these nodes is for this one."""
        if not self.node or not selectors or self.nodes is None:
            return True
        return matches_any((compile_selector(one) for one in selectors), self.nodes.get(self.node, {}))


class Judge(Protocol[T_contra]):
    """Looks at the editions of one kind."""

    def findings(self, ref: ObjectRef, edition: T_contra) -> Iterator[Finding]:
        """What is wrong with an edition beside those accepted so far."""

    def accept(self, ref: ObjectRef, edition: T_contra) -> None:
        """Remember an edition that is in force."""


T = TypeVar("T")


class _Content(Generic[T]):
    """The judge of a kind about which there is nothing to say: every edition is accepted."""

    def findings(self, ref: ObjectRef, edition: T) -> Iterator[Finding]:
        return iter(())

    def accept(self, ref: ObjectRef, edition: T) -> None:
        pass


class L2Judge(_Content[L2Advertisement]):
    """L2Advertisements never contradict each other."""


class ProfileJudge:
    """BFDProfiles; knows those in force."""

    def __init__(self, surroundings: Surroundings) -> None:
        self.profiles: dict[str, BFDProfile] = {}
        self._native = surroundings.mode == NATIVE

    def findings(self, ref: ObjectRef, edition: BFDProfile) -> Iterator[Finding]:
        """A native speaker has no BFD."""
        if self._native:
            yield Finding("spec", "mode", "BFD profiles are not supported in native BGP mode", "delete it, or change the mode")

    def accept(self, ref: ObjectRef, edition: BFDProfile) -> None:
        """Remember a profile."""
        self.profiles[ref.name] = edition


class CommunityJudge:
    """Community objects; knows all names in force."""

    def __init__(self, surroundings: Surroundings) -> None:
        self.aliases: dict[str, Community] = {}
        self._native = surroundings.mode == NATIVE

    def findings(self, ref: ObjectRef, edition: CommunityKind) -> Iterator[Finding]:
        """Names must be defined once in the whole cluster; a native speaker has no large communities."""
        mine: set[str] = set()
        for index, one in enumerate(edition.spec.communities):
            path = f"spec.communities[{index}]"
            if one.name in self.aliases or one.name in mine:
                message = f'duplicate definition of community "{one.name}"'
                yield Finding(f"{path}.name", "duplicate", message, "define each name once, in one object", show(one.name))
            mine.add(one.name)
            if self._native and parse_community(one.value).large:
                yield _no_large(f"{path}.value", one.value)

    def accept(self, ref: ObjectRef, edition: CommunityKind) -> None:
        """Remember the names that an object defines."""
        self.aliases |= {one.name: parse_community(one.value) for one in edition.spec.communities}


def _no_large(path: str, text: str) -> Finding:
    message = f"large community {text} is not supported in native BGP mode"
    return Finding(path, "mode", message, "use a community of two numbers, or change the mode", show(text))


class PoolJudge:
    """IPAddressPools; knows who has which range."""

    def __init__(self) -> None:
        self.pools: dict[str, IPAddressPool] = {}
        self._occupied = Occupied()

    def findings(self, ref: ObjectRef, edition: IPAddressPool) -> Iterator[Finding]:
        """Ranges must not overlap."""
        for index, entry in enumerate(edition.spec.addresses):
            mine = parse_range(entry)
            if other := self._occupied.overlapping(mine):
                yield overlap(f"spec.addresses[{index}]", mine, *other)

    def accept(self, ref: ObjectRef, edition: IPAddressPool) -> None:
        """Remember the ranges of a pool."""
        self.pools[ref.name] = edition
        for entry in edition.spec.addresses:
            self._occupied.add(parse_range(entry), str(ref))


NATIVE_REFUSES: Final[Mapping[str, str]] = MappingProxyType({
    "vrf": "vrf", "connectTime": "connect_time", "enableGracefulRestart": "enable_graceful_restart", "disableMP": "disable_mp",
    "dualStackAddressFamily": "dual_stack_address_family", "dynamicASN": "dynamic_asn", "interface": "interface",
    "localASN": "local_asn",
})  # fmt: skip
"""Members of a peer that native mode cannot serve → attribute. bfdProfile and keepaliveTime have rules of their own."""


class PeerJudge:
    """BGPPeers; knows those in force."""

    def __init__(self, surroundings: Surroundings, profiles: Mapping[str, BFDProfile]) -> None:
        self.peers: dict[str, BGPPeer] = {}
        self._around = surroundings
        self._profiles = profiles

    def findings(self, ref: ObjectRef, edition: BGPPeer) -> Iterator[Finding]:
        """What a peer names must be there, and its mode must be able to serve it beside the other peers."""
        yield from self._references(ref, edition)
        if self._around.mode == NATIVE:
            yield from self._native(edition)
        elif self._around.mode in FRR_MODES:
            for other in self.peers.values():
                if self._may_meet(edition, other):
                    yield from _beside(edition, other)

    def accept(self, ref: ObjectRef, edition: BGPPeer) -> None:
        """Remember a peer."""
        self.peers[ref.name] = edition

    def _references(self, ref: ObjectRef, edition: BGPPeer) -> Iterator[Finding]:
        if self._around.references is References.IGNORE:
            return
        severity = Severity.ERROR if self._around.references is References.CHECK else Severity.WARNING
        spec, profile = edition.spec, edition.spec.bfd_profile
        if profile and profile not in self._profiles:
            text = f"peer {ref.name} referencing non existing bfd profile {profile}"
            yield Finding("spec.bfdProfile", "unresolved", text, "create the BFDProfile", show(profile), severity, text)
        secret = spec.password_secret.name if spec.password_secret is not None else ""
        if not secret or self._around.secrets is None:
            return
        found = self._around.secrets.get(secret)
        tail = f"\nfailed to parse peer {ref.name} password secret"
        path, value = "spec.passwordSecret", show(secret)
        if found is None:
            # Programs compare these texts letter by letter, blanks at line ends and the name of the peer included.
            text = f'parsing peer {ref.name} secret ref not found for peer config "{ref.namespace}"/"{ref.name}"{tail}'
            yield Finding(path, "unresolved", f"Secret {secret!r} not found", "create the Secret", value, severity, text)
        elif found.type != BASIC_AUTH:
            what = f'secret type mismatch on "{ref.namespace}"/"{secret}", type "{BASIC_AUTH}" is expected '
            message, text = f"Secret {secret!r} has type {found.type!r}", f"parsing peer {ref.name} {what}{tail}"
            yield Finding(path, "unresolved", message, f"make it of type {BASIC_AUTH}", value, severity, text)
        elif not found.has_password:
            text = f'parsing peer {ref.name} no password specified in "{ref.namespace}"/"{secret}"{tail}'
            message = f"Secret {secret!r} has no key 'password'"
            yield Finding(path, "unresolved", message, "add the key password", value, severity, text)

    def _native(self, edition: BGPPeer) -> Iterator[Finding]:
        spec = edition.spec
        used = [name for name, attribute in NATIVE_REFUSES.items() if getattr(spec, attribute) not in {None, "", False}]
        if spec.keepalive_time is not None and _nonzero(spec.keepalive_time):
            used.append("keepaliveTime")
        if spec.bfd_profile and self._around.references is not References.IGNORE:
            used.append("bfdProfile")
        for name in used:
            yield Finding(f"spec.{name}", "mode", f"{name} is not supported in native BGP mode", f"remove {name}")

    def _may_meet(self, one: BGPPeer, other: BGPPeer) -> bool:
        """Whether some node runs both: assumed where there are no nodes; where nobody looked, selectors keep them apart."""
        if self._around.nodes is None:
            return not (one.spec.node_selectors and other.spec.node_selectors)
        if not self._around.nodes:
            return True
        mine, theirs = self._around.matching(one.spec.node_selectors), self._around.matching(other.spec.node_selectors)
        return bool((mine or frozenset()) & (theirs or frozenset()))


def _nonzero(duration: str) -> bool:
    return any(digit in "123456789" for digit in duration)


def peer_identifier(peer: BGPPeer) -> str:
    """What a router is told apart by on one node."""
    name = peer.spec.peer_address or peer.spec.interface
    return f"{name}-{peer.spec.vrf}" if peer.spec.vrf else name


def _beside(one: BGPPeer, other: BGPPeer) -> Iterator[Finding]:
    """What two peers on one node cannot have in FRR."""
    mine, theirs, name = one.spec, other.spec, other.metadata.name
    identifier = peer_identifier(one)
    if identifier == peer_identifier(other):
        text = f"peer {identifier} already exists, FRR mode doesn't support duplicate BGPPeers selecting the same node"
        remedy = f"select other nodes than BGPPeer {name}, or remove one of them"
        path = "spec.peerAddress" if mine.peer_address else "spec.interface"
        yield Finding(path, "duplicate", text, remedy, show(identifier), summary=text)
    if mine.router_id != theirs.router_id:
        message = f"routerID {mine.router_id!r} is another one than {theirs.router_id!r} of BGPPeer {name}"
        yield Finding("spec.routerID", "mode", message, "give all peers of a node the same routerID", show(mine.router_id))
    if mine.vrf == theirs.vrf and mine.my_asn != theirs.my_asn:
        message = f"myASN {mine.my_asn} is another one than {theirs.my_asn} of BGPPeer {name} in the same VRF"
        yield Finding("spec.myASN", "mode", message, "give all peers of a node and VRF the same myASN", show(mine.my_asn))


@dataclass(frozen=True, slots=True)
class _Accepted:
    edition: BGPAdvertisement
    pools: frozenset[str]
    nodes: frozenset[str] | None


@dataclass(slots=True)
class AdvertisementJudge:
    """BGPAdvertisements; knows those in force.

    `labels` are those of every pool there is, broken ones included; `pools` the editions in force.
    """

    surroundings: Surroundings
    labels: Mapping[str, Labels]
    pools: Mapping[str, IPAddressPool]
    aliases: Mapping[str, Community]
    peers: Mapping[str, BGPPeer]
    profiles: Mapping[str, BFDProfile]
    accepted: dict[str, _Accepted] = field(default_factory=dict)

    def findings(self, ref: ObjectRef, edition: BGPAdvertisement) -> Iterator[Finding]:
        """Communities, the pools and peers it reaches, and other advertisements of the same pools must fit together."""
        yield from self._communities(edition)
        chosen = [name for name in sorted(self.chosen(edition)) if name in self.pools]
        for name in chosen:
            yield from self._pool(edition, name)
        yield from self._local_pref(edition, chosen)

    def accept(self, ref: ObjectRef, edition: BGPAdvertisement) -> None:
        """Remember an advertisement."""
        nodes = self.surroundings.matching(edition.spec.node_selectors)
        self.accepted[ref.name] = _Accepted(edition, self.chosen(edition), nodes)

    def chosen(self, edition: BGPAdvertisement) -> frozenset[str]:
        """The pools it is for."""
        return chosen_pools(edition, self.labels)

    def _communities(self, edition: BGPAdvertisement) -> Iterator[Finding]:
        for index, text in enumerate(edition.spec.communities):
            path = f"spec.communities[{index}]"
            if text in self.aliases:
                continue  # Whoever defines it answers for its value.
            try:
                community = parse_community(text)
            except CommunityFormatError as problem:
                yield from self._unknown(path, text, problem)
            except TextError as problem:
                yield Finding(path, "community", problem.message, problem.remedy, show(text))
            else:
                if self.surroundings.mode == NATIVE and community.large:
                    yield _no_large(path, text)

    def _unknown(self, path: str, text: str, problem: TextError) -> Iterator[Finding]:
        """A text that is a name or nonsense; names have no colon."""
        summary = f'{problem.message}\ninvalid community "{text}" in BGP advertisement'
        if ":" in text:
            yield Finding(path, "community", problem.message, COMMUNITY_REMEDY, show(text), summary=summary)
        elif self.surroundings.references is not References.IGNORE:
            severity = Severity.ERROR if self.surroundings.references is References.CHECK else Severity.WARNING
            message, remedy = f"no Community object defines {text!r}", f"define it, or {COMMUNITY_REMEDY}"
            yield Finding(path, "unresolved", message, remedy, show(text), severity, summary)

    def _pool(self, edition: BGPAdvertisement, name: str) -> Iterator[Finding]:
        spec, families = edition.spec, set[int]()
        for entry in self.pools[name].spec.addresses:
            one = parse_range(entry)
            families.add(one.first.version)
            path, length = (
                ("spec.aggregationLength", spec.aggregation_length)
                if one.first.version == 4
                else ("spec.aggregationLengthV6", spec.aggregation_length_v6)
            )
            prefix = widest_cidr(one).prefixlen
            if prefix > length:
                message = (
                    f"invalid aggregation length {length}: prefix {prefix} in this pool is more specific than the aggregation "
                    f"length for addresses {entry}"
                )
                remedy = f"write {prefix} or more, or enlarge pool {name}"
                yield Finding(path, "aggregation-length", message, remedy, show(length))
        if 6 not in families:
            return
        if self.surroundings.mode == NATIVE:
            message = f"pool {name!r} has IPv6 addresses, which native BGP mode cannot announce"
            yield Finding("spec.ipAddressPools", "family", message, "select pools with IPv4 addresses only", show(name))
        for peer in self._reached(edition):
            profile = self.profiles.get(peer.spec.bfd_profile)
            if profile is not None and profile.spec.echo_mode:
                message = (
                    f"pool {name!r} has IPv6 addresses, and the BFD profile {peer.spec.bfd_profile!r} of peer "
                    f"{peer.metadata.name!r} has echoMode, which does not work with IPv6"
                )
                yield Finding("spec.peers", "family", message, "turn echoMode off, or announce to other peers", show(name))

    def _reached(self, edition: BGPAdvertisement) -> Iterator[BGPPeer]:
        wanted = edition.spec.peers
        return (peer for name, peer in sorted(self.peers.items()) if not wanted or name in wanted)

    def _local_pref(self, edition: BGPAdvertisement, chosen: list[str]) -> Iterator[Finding]:
        """Routes of one pool to one peer from one node must have one preference; service selectors are judged later."""
        if edition.spec.service_selectors:
            return
        nodes = self.surroundings.matching(edition.spec.node_selectors)
        for other_name, other in sorted(self.accepted.items()):
            if other.edition.spec.service_selectors or other.edition.spec.local_pref == edition.spec.local_pref:
                continue
            if _apart(edition, nodes, other):
                continue
            for pool in chosen:
                if pool in other.pools and not self._lengths_differ(edition, other.edition, pool):
                    message = (
                        f"local preference {edition.spec.local_pref} for pool {pool!r} contradicts "
                        f"{other.edition.spec.local_pref} of BGPAdvertisement {other_name!r}"
                    )
                    remedy = "give both the same localPref, or other peers, nodes or aggregation lengths"
                    yield Finding("spec.localPref", "local-pref", message, remedy, show(edition.spec.local_pref))

    def _lengths_differ(self, one: BGPAdvertisement, other: BGPAdvertisement, pool: str) -> bool:
        """Whether the two announce other prefixes, in every family that the pool has."""
        families = {parse_range(entry).first.version for entry in self.pools[pool].spec.addresses}
        v4 = one.spec.aggregation_length != other.spec.aggregation_length
        v6 = one.spec.aggregation_length_v6 != other.spec.aggregation_length_v6
        return (v4 or 4 not in families) and (v6 or 6 not in families)


def _apart(edition: BGPAdvertisement, nodes: frozenset[str] | None, other: _Accepted) -> bool:
    """Whether no node announces both to one peer. Where nodes are not known, selectors may keep them apart."""
    mine, theirs = edition.spec.peers, other.edition.spec.peers
    if mine and theirs and not set(mine) & set(theirs):
        return True
    if nodes is None or other.nodes is None:
        return bool(edition.spec.node_selectors or other.edition.spec.node_selectors)
    return not nodes & other.nodes


def chosen_pools(edition: BGPAdvertisement | L2Advertisement, labels: Mapping[str, Labels]) -> frozenset[str]:
    """The pools, among those with these labels, that an advertisement is for: by name or by label, or all without either."""
    spec = edition.spec
    by_label = tuple(compile_selector(one) for one in spec.ip_address_pool_selectors)
    unrestricted = not spec.ip_address_pools and not by_label
    return frozenset(
        name for name, has in labels.items() if unrestricted or name in spec.ip_address_pools or matches_any(by_label, has)
    )
