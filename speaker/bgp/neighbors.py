"""Which BGP sessions this node has: BGPPeers and the facts of the node become neighbors of ExaBGP.

Called by the speaker whenever the configuration or a fact changes; exabgp_config.py and routes.py read the outcome. A peer that
cannot be served costs itself alone, and what ExaBGP cannot do for a peer is said about that peer: both are Problems, never
exceptions. Passwords are in Site.secrets and Neighbor.password and in no text. It opens nothing and knows no clock.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import Final

from config.model import BfdProfile, Config, InterfaceAddress, InterfaceName, IPAddress, NodeName, ObjectRef, Peer, PeerName
from config.problem import Finding, Problem, Severity
from config.selectors import matches_any
from speaker.bgp.exabgp_config import check
from speaker.bgp.model import Family, Neighbor

HOLD_TIME_S: Final = 90
"""Where a BGPPeer names no timers (RFC 4271 section 10, and MetalLB)."""
GRACEFUL_RESTART_S: Final = 120
"""How long a router is asked to keep the routes of a speaker that restarts (RFC 4724 section 3): FRR's default."""
NOBODYS_AS: Final = 2**32 - 1
"""Reserved (RFC 7300)."""
BFD_INTERVAL_MS: Final = 300
BFD_INTERVAL_MIN_MS: Final = 50
"""What a process in Python can keep to on a busy machine."""
BFD_MULTIPLIER: Final = 3
BFD_MINIMUM_TTL: Final = 254
"""FRR's default for sessions over several hops (RFC 5883 section 5 leaves it open)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """This node, as far as its sessions depend on it.

    `links` has every interface there is, also those without an address, with its addresses in the kernel's order.
    `node_addresses` are the InternalIPs of the Node. `secrets` has the decoded key `password` of the Secrets in our namespace.
    `routers` is where an unnumbered peer was seen (the source of its router advertisements); `asns` what AS a router of a peer
    with dynamicASN said it has, kept by the caller also after the session ended.
    """

    node: NodeName
    namespace: str
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    links: Mapping[InterfaceName, tuple[InterfaceAddress, ...]] = field(default_factory=lambda: MappingProxyType({}))
    node_addresses: tuple[IPAddress, ...] = ()
    secrets: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    routers: Mapping[InterfaceName, IPv6Address] = field(default_factory=lambda: MappingProxyType({}))
    asns: Mapping[PeerName, int] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Bfd:
    """The BFD session beside a BGP session, defaults filled in. Intervals in milliseconds."""

    peer: IPAddress
    local: IPAddress | None
    interface: str
    multihop: bool
    minimum_ttl: int
    transmit_interval_ms: int
    receive_interval_ms: int
    detect_multiplier: int
    passive: bool


@dataclass(frozen=True, slots=True)
class Peering:
    """A BGPPeer that has a session on this node.

    `next_hops` says for each family whose routes the session can carry where they lead: None is this end of the session.
    `connect_time_s` is how long a session may be down before it is to be dialled anew; None leaves that to ExaBGP.
    """

    peer: PeerName
    neighbor: Neighbor
    next_hops: Mapping[Family, IPAddress | None]
    bfd: Bfd | None = None
    connect_time_s: float | None = None


@dataclass(frozen=True, slots=True)
class Neighborhood:
    """All sessions of this node, in the order of their names, and what there is to say.

    A problem of severity error says why its peer has no session at present. `elsewhere` are the peers whose nodeSelectors leave
    this node out.
    """

    peerings: tuple[Peering, ...] = ()
    problems: tuple[Problem, ...] = ()
    elsewhere: frozenset[PeerName] = frozenset()


class _RefusedError(Exception):
    """Ends the making of one neighbor; never leaves this module."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a router is: its address, the link it shares with us if it is on one, and the device to bind to."""

    peer: IPAddress
    link: InterfaceName | None
    device: str


def neighborhood(config: Config, site: Site) -> Neighborhood:
    """Decide all sessions of a node; the same facts always give the same answer."""
    peerings: list[Peering] = []
    problems: list[Problem] = []
    elsewhere: set[PeerName] = set()
    for peer in sorted(config.peers, key=lambda one: one.name):
        if peer.node_selectors and not matches_any(peer.node_selectors, site.labels):
            elsewhere.add(peer.name)
            continue
        said: list[Finding] = []
        try:
            peerings.append(_peering(peer, config, site, said))
        except _RefusedError as error:
            said = [error.finding]
        problems += (_problem(peer.name, finding, site) for finding in said)
    refusals = check([one.neighbor for one in peerings])
    refused = {PeerName(name) for name in refusals}
    problems = [one for one in problems if one.object.name not in refused]
    problems += (_problem(PeerName(name), finding, site) for name, finding in refusals.items())
    problems.sort(key=lambda one: (one.object, one.path, one.code))
    return Neighborhood(tuple(one for one in peerings if one.peer not in refused), tuple(problems), frozenset(elsewhere))


def _problem(peer: PeerName, finding: Finding, site: Site) -> Problem:
    return Problem.of(ObjectRef("BGPPeer", site.namespace, peer), finding)


def _warning(path: str, code: str, message: str, remedy: str, value: str = "") -> Finding:
    return Finding(path, code, message, remedy, value, Severity.WARNING)


def _peering(peer: Peer, config: Config, site: Site, said: list[Finding]) -> Peering:
    place = _place(peer, site)
    local = _local(peer, place, site, said)
    password = _password(peer, site, said)
    local_as = peer.local_asn or peer.my_asn
    peer_as = _peer_as(peer, local_as, site, said)
    next_hops = dict(_next_hops(peer, place, local, site, said))
    several_hops = peer.ebgp_multi_hop or place.link is None
    external = peer_as != local_as
    if external and several_hops and not peer.ebgp_multi_hop:
        said.append(_far(place))
    neighbor = Neighbor(
        name=peer.name,
        peer=place.peer,
        local=local,
        local_as=local_as,
        peer_as=peer_as,
        router_id=_router_id(peer, place, local, site),
        port=peer.port,
        hold_time_s=_hold_time(peer, said),
        families=_families(peer, place),
        extended_next_hop=_version(next_hops.get(Family.IPV4)) == 6,
        graceful_restart_s=GRACEFUL_RESTART_S if peer.graceful_restart else None,
        interface=place.device,
        outgoing_ttl=1 if external and not several_hops else None,
        password=password,
    )
    profile = config.bfd_profiles.get(peer.bfd_profile)
    bfd = None if profile is None else _bfd(profile, neighbor, several_hops=several_hops, said=said)
    return Peering(peer.name, neighbor, MappingProxyType(next_hops), bfd, peer.connect_time_s)


def _version(address: IPAddress | None) -> int | None:
    return None if address is None else address.version


def _far(place: _Place) -> Finding:
    message = f"{place.peer} is on no network of this node, and ebgpMultiHop is not set; the session is tried over several hops"
    return _warning("spec.ebgpMultiHop", "multi-hop", message, "set ebgpMultiHop: true if the router is that far away")


def _place(peer: Peer, site: Site) -> _Place:
    """Find the router, and refuse a device that this node does not have."""
    if peer.vrf and InterfaceName(peer.vrf) not in site.links:
        message = f"this node has no VRF device {peer.vrf}"
        raise _RefusedError(Finding("spec.vrf", "no-device", message, "make it, or select other nodes", peer.vrf))
    if peer.interface is None:
        assert peer.address is not None, "a compiled peer has an address or an interface"
        return _Place(peer.address, _link_to(peer.address, site), peer.vrf)
    if peer.interface not in site.links:
        message = f"this node has no interface {peer.interface}"
        raise _RefusedError(Finding("spec.interface", "no-device", message, "make it, or select other nodes", peer.interface))
    if _first(site.links[peer.interface], 6, link_local=True) is None:
        message = f"{peer.interface} has no IPv6 link-local address, by which unnumbered peers find each other"
        raise _RefusedError(Finding("spec.interface", "no-link-local", message, "turn IPv6 on there", peer.interface))
    router = site.routers.get(peer.interface)
    if router is None:
        message = f"no router has made itself known on {peer.interface}"
        remedy = "let the router send router advertisements there, as it does for unnumbered peers"
        raise _RefusedError(Finding("spec.interface", "no-router", message, remedy, peer.interface))
    return _Place(router, peer.interface, peer.interface)


def _link_to(address: IPAddress, site: Site) -> InterfaceName | None:
    """The link with the narrowest network that an address is in."""
    reached = [
        (-one.network.prefixlen, name)
        for name, addresses in site.links.items()
        for one in addresses
        if one.version == address.version and address in one.network
    ]
    return min(reached)[1] if reached else None


def _first(addresses: Sequence[InterfaceAddress], version: int, *, link_local: bool = False) -> IPAddress | None:
    """The first address of a family that others can reach; of IPv6, only link-local ones or only the others."""
    found = (one.ip for one in addresses if one.version == version and not one.is_loopback)
    return next((one for one in found if version == 4 or one.is_link_local is link_local), None)


def _local(peer: Peer, place: _Place, site: Site, said: list[Finding]) -> IPAddress | None:
    """The source address; one that this node does not have is not bound to, because that would never connect."""
    source = peer.source_address
    if source is None:
        return None
    if source.version != place.peer.version:
        message = f"{source} is of another family than the router's address {place.peer}"
        raise _RefusedError(
            Finding("spec.sourceAddress", "family", message, "write an address of the same family", str(source))
        )
    if any(one.ip == source for addresses in site.links.values() for one in addresses):
        return source
    message = f"this node has no address {source}; the session uses the source address that the kernel chooses"
    said.append(
        _warning("spec.sourceAddress", "no-address", message, "give it to the node, or select other nodes", str(source))
    )
    return None


def _password(peer: Peer, site: Site, said: list[Finding]) -> str:
    """The password, from where it is kept. No text says anything about it but where it comes from."""
    name = peer.password_secret
    if not name:
        return peer.password
    path, data = "spec.passwordSecret", site.secrets.get(name)
    if not data:
        message = f"Secret {name} has no password" if data is not None else f"there is no Secret {name} with a password"
        remedy = "make it of type kubernetes.io/basic-auth with the key password, in the namespace of the peer"
        raise _RefusedError(Finding(path, "no-password", message, remedy, name))
    try:
        password = data.decode()
    except UnicodeDecodeError:
        message, remedy = f"the password in Secret {name} is not UTF-8 text", "write it as UTF-8"
        raise _RefusedError(Finding(path, "no-password", message, remedy, name)) from None
    if password != password.strip():
        message = f"the password in Secret {name} begins or ends with blanks or newlines, and they count"
        said.append(_warning(path, "blanks", message, "make the Secret with printf or echo -n if they are not meant", name))
    return password


def _peer_as(peer: Peer, local_as: int, site: Site, said: list[Finding]) -> int | None:
    """The router's AS; None lets it say. One that says ours and must not is met with an AS that nobody has, to hear what it says next."""
    if peer.dynamic_asn is None:
        return peer.peer_asn
    if peer.dynamic_asn == "internal":
        return local_as
    learned = site.asns.get(peer.name)
    if learned == local_as:
        message = f"the router has AS {learned}, which is ours, and external is for any other; its session is refused"
        said.append(_warning("spec.dynamicASN", "asn", message, "write internal, or correct the router", "external"))
        return NOBODYS_AS
    return learned


def _families(peer: Peer, place: _Place) -> tuple[Family, ...]:
    if peer.dual_stack or peer.interface is not None:
        return Family.IPV4, Family.IPV6
    return (Family.IPV4,) if place.peer.version == 4 else (Family.IPV6,)


def _next_hops(
    peer: Peer, place: _Place, local: IPAddress | None, site: Site, said: list[Finding]
) -> Iterator[tuple[Family, IPAddress | None]]:
    """Where routes of each family lead: this end of the session, or an address of this node that the router can reach.

    The address is one on the link to the router. Without one, a router that is further away is given the Node's own, and IPv4
    routes over IPv6 get an IPv6 next hop (RFC 8950); what remains is not announced.
    """
    for family in _families(peer, place):
        version = 4 if family is Family.IPV4 else 6
        if version == place.peer.version:
            yield family, None
            continue
        hop: IPAddress | None
        if place.peer.is_link_local and place.link is not None:
            hop = _first(site.links[place.link], 6, link_local=True)
        else:
            hop = _own_address(version, place, local, site)
            if hop is None and version == 4:
                hop = local or _own_address(6, place, local, site)
        if hop is not None:
            yield family, hop
            continue
        message = f"this node has no IPv{version} address that {place.peer} could send to; no IPv{version} route is announced"
        remedy = f"give this node an IPv{version} address on the way to the router, or turn dualStackAddressFamily off"
        said.append(_warning("spec.dualStackAddressFamily", "no-next-hop", message, remedy))


def _own_address(version: int, place: _Place, local: IPAddress | None, site: Site) -> IPAddress | None:
    """An address of this node by which a router can reach it; with a source address, one beside that is preferred."""
    near = [addresses for addresses in site.links.values() if any(one.ip == local for one in addresses)]
    if place.link is not None:
        near.append(site.links[place.link])
    found = [_first(addresses, version) for addresses in near]
    if place.link is None:
        found += (one for one in site.node_addresses if one.version == version)
    return next((one for one in found if one is not None), None)


def _router_id(peer: Peer, place: _Place, local: IPAddress | None, site: Site) -> IPv4Address:
    """Ours to this router: as configured, else an IPv4 address of the session's end, else a number made of the node's name."""
    if peer.router_id is not None and not isinstance(peer.router_id, IPv4Address):
        message = f"{peer.router_id} is no IPv4 address, and router IDs have that form"
        raise _RefusedError(Finding("spec.routerID", "router-id", message, "write an IPv4 address", str(peer.router_id)))
    here = _own_address(4, place, local, site) or next((one for one in site.node_addresses if one.version == 4), None)
    for one in (peer.router_id, local, here):
        if isinstance(one, IPv4Address):
            return one
    return IPv4Address(zlib.crc32(site.node.encode()).to_bytes(4, "little"))


def _hold_time(peer: Peer, said: list[Finding]) -> int:
    if peer.hold_time_s is None:
        return HOLD_TIME_S
    hold_s = int(peer.hold_time_s)
    keepalive_s = peer.keepalive_time_s
    if keepalive_s is not None and int(keepalive_s) != hold_s // 3:
        message = (
            f"keepaliveTime {keepalive_s:g}s is not a third of holdTime {hold_s}s; keepalives are sent every {hold_s // 3}s"
        )
        said.append(_warning("spec.keepaliveTime", "keepalive", message, "leave keepaliveTime out, or set a third of holdTime"))
    return hold_s


def _bfd(profile: BfdProfile, neighbor: Neighbor, *, several_hops: bool, said: list[Finding]) -> Bfd:
    if profile.echo_mode:
        message = f"BFDProfile {profile.name} has echoMode, which is not offered; control packets alone watch the session"
        said.append(_warning("spec.bfdProfile", "bfd-echo", message, "lower transmitInterval and receiveInterval instead"))
    transmit_ms, receive_ms = profile.transmit_interval_ms or BFD_INTERVAL_MS, profile.receive_interval_ms or BFD_INTERVAL_MS
    if min(transmit_ms, receive_ms) < BFD_INTERVAL_MIN_MS:
        message = f"BFDProfile {profile.name} has an interval below {BFD_INTERVAL_MIN_MS} ms; {BFD_INTERVAL_MIN_MS} ms are used"
        remedy = f"write {BFD_INTERVAL_MIN_MS} or more"
        said.append(_warning("spec.bfdProfile", "bfd-interval", message, remedy, str(min(transmit_ms, receive_ms))))
    return Bfd(
        peer=neighbor.peer,
        local=neighbor.local,
        interface=neighbor.interface,
        multihop=several_hops,
        minimum_ttl=profile.minimum_ttl or BFD_MINIMUM_TTL,
        transmit_interval_ms=max(transmit_ms, BFD_INTERVAL_MIN_MS),
        receive_interval_ms=max(receive_ms, BFD_INTERVAL_MIN_MS),
        detect_multiplier=profile.detect_multiplier or BFD_MULTIPLIER,
        passive=profile.passive_mode,
    )
