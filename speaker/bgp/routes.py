"""What this node announces by BGP, and to whom.

The speaker calls decide() for every Service that a change may concern and keeps the answers in a Table, which has the routes of
every session at hand for supervisor.want(). Every Service that is not announced to a peer has a Reason, per peer. Nothing here
sends, writes or logs; which sessions there are is neighbors.py's to say, and what was really sent is sessions.py's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from itertools import combinations

from config.model import BgpAdvertisement, Community, IPAddress, NodeName, PeerName, PoolName, ServiceKey
from config.problem import Severity
from config.selectors import matches_any
from speaker import eligibility
from speaker.bgp.model import Family, NeighborKey, Prefix, Route
from speaker.bgp.neighbors import NOBODYS_AS, Neighborhood, Peering
from speaker.eligibility import Ineligible
from speaker.reason import Reason
from speaker.world import Cluster, Node, Service, TrafficPolicy


@dataclass(frozen=True, slots=True)
class Offer:
    """A prefix as one advertisement wants it announced; `peers` None means to all.

    Equal for all Services of one aggregate, so that a route lives as long as the last of them.
    """

    advertisement: str
    prefix: Prefix
    local_pref: int
    communities: frozenset[Community]
    peers: frozenset[PeerName] | None


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome for one Service on this node, whatever the peers; without offers `reason` and `detail` say why."""

    service: ServiceKey
    offers: tuple[Offer, ...]
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one peer is told of one Service: these prefixes, or none for this reason. `detail` also names those left out."""

    peer: PeerName
    prefixes: tuple[Prefix, ...]
    reason: Reason
    detail: str


def decide(service: Service, cluster: Cluster, me: NodeName) -> Decision:
    """Decide one Service from one moment's facts; the same facts always give the same Decision."""
    found = _terms(service, cluster, me)
    if isinstance(found, Ineligible):
        return Decision(service.key, (), found.reason, found.detail)
    offers = dict.fromkeys(_offer(one, address) for one in found for address in service.addresses)
    detail = f"BGPAdvertisements {', '.join(one.name for one in found)} offer {', '.join(_texts(one.prefix for one in offers))}"
    return Decision(service.key, tuple(offers), Reason.BGP_OFFERED, detail)


def _texts(prefixes: Iterable[Prefix]) -> list[str]:
    return list(dict.fromkeys(map(str, prefixes)))


def _terms(service: Service, cluster: Cluster, me: NodeName) -> tuple[BgpAdvertisement, ...] | Ineligible:
    """The advertisements under which this node announces a Service, by name; looked at in the order in which MetalLB does."""
    pool = eligibility.whence(service, cluster)
    if isinstance(pool, Ineligible):
        return pool
    here = _advertisements(cluster, me).get(pool, ())
    if not here:
        text = f"no BGPAdvertisement for pool {pool} includes node {me}"
        return Ineligible(Reason.NO_MATCHING_BGP_ADVERTISEMENT, text)
    found = tuple(one for one in here if not one.service_selectors or matches_any(one.service_selectors, service.labels))
    if not found:
        text = f"the serviceSelectors of {', '.join(one.name for one in here)} do not match {service.key}"
        return Ineligible(Reason.NO_MATCHING_BGP_ADVERTISEMENT, text)
    families = _families(pool, service, cluster)
    for one, other in combinations(found, 2):
        if _conflict(one, other, families):
            text = f"BGPAdvertisement {one.name} wants localPref {one.local_pref}, {other.name} {other.local_pref}"
            return Ineligible(Reason.CONFLICTING_LOCAL_PREF, text)
    fit = eligibility.fit(cluster.nodes.get(me, Node(me)), cluster)
    if isinstance(fit, Ineligible):
        return fit
    if service.policy is TrafficPolicy.LOCAL and me not in service.ready_nodes:
        return Ineligible(Reason.NO_LOCAL_ENDPOINT, f"{service.key} has no ready endpoint on {me}")
    if not service.ready:
        return Ineligible(Reason.NO_READY_ENDPOINT, f"none of the endpoints of {service.key} is ready")
    return found


@lru_cache(maxsize=4)  # A Cluster is compared by identity; a decision uses the present one, a comparison also the one before.
def _advertisements(cluster: Cluster, me: NodeName) -> Mapping[PoolName, tuple[BgpAdvertisement, ...]]:
    """Pool → the advertisements that this node announces it by, in name order."""
    labels = cluster.nodes.get(me, Node(me)).labels
    by_pool: dict[PoolName, tuple[BgpAdvertisement, ...]] = {}
    for one in sorted(cluster.config.bgp_advertisements, key=lambda each: each.name):
        if not one.node_selectors or matches_any(one.node_selectors, labels):
            for pool in one.pools:
                by_pool[pool] = (*by_pool.get(pool, ()), one)
    return by_pool


def _families(pool: PoolName, service: Service, cluster: Cluster) -> frozenset[int]:
    """The IP versions in a pool; of one that is broken now, those of the Service."""
    known = cluster.config.pools.get(pool)
    if known is None:
        return frozenset(address.version for address in service.addresses)
    return frozenset(one.first.version for one in known.ranges)


def _conflict(one: BgpAdvertisement, other: BgpAdvertisement, families: frozenset[int]) -> bool:
    """Whether two advertisements could want one prefix announced to one peer with different preferences."""
    if one.local_pref == other.local_pref:
        return False
    if one.peers is not None and other.peers is not None and one.peers.isdisjoint(other.peers):
        return False
    v4 = one.aggregation_length != other.aggregation_length
    v6 = one.aggregation_length_v6 != other.aggregation_length_v6
    return not ((v4 or 4 not in families) and (v6 or 6 not in families))


def _offer(one: BgpAdvertisement, address: IPAddress) -> Offer:
    return Offer(one.name, _prefix(one, address), one.local_pref, one.communities, one.peers)


def _prefix(one: BgpAdvertisement, address: IPAddress) -> Prefix:
    if isinstance(address, IPv4Address):
        return IPv4Network((int(address), one.aggregation_length), strict=False)
    return IPv6Network((int(address), one.aggregation_length_v6), strict=False)


def _obstacle(offer: Offer, peering: Peering) -> Reason | None:
    """Why a peer is not told of an offer; None if it is."""
    family = Family.of(offer.prefix)
    if offer.peers is not None and peering.peer not in offer.peers:
        return Reason.PEER_NOT_LISTED
    if peering.neighbor.peer_as in {None, NOBODYS_AS}:
        return Reason.PEER_AS_UNKNOWN
    if family not in peering.neighbor.families:
        return Reason.FAMILY_NOT_CARRIED
    if family not in peering.next_hops:
        return Reason.NO_NEXT_HOP
    return None


def _route(prefix: Prefix, offers: Iterable[Offer], peering: Peering) -> Route | None:
    """The one route to a peer that all offers of a prefix make: the highest preference, every community."""
    taken = [offer for offer in offers if _obstacle(offer, peering) is None]
    if not taken:
        return None
    communities = frozenset[Community]().union(*(offer.communities for offer in taken))
    preference = max(offer.local_pref for offer in taken)
    return Route(prefix, peering.next_hops[Family.of(prefix)], preference, tuple(sorted(communities)))


def judge(decision: Decision, neighborhood: Neighborhood) -> tuple[Verdict, ...]:
    """What each peer is told of a Service, in the order of their names; peers without a session here included."""
    verdicts = [_verdict(decision, peering) for peering in neighborhood.peerings]
    verdicts += (
        Verdict(peer, (), Reason.PEER_ELSEWHERE, f"the nodeSelectors of BGPPeer {peer} do not match this node")
        for peer in neighborhood.elsewhere
    )
    verdicts += (
        Verdict(PeerName(problem.object.name), (), Reason.PEER_REFUSED, f"{problem.path}: {problem.message}")
        for problem in neighborhood.problems
        if problem.severity is Severity.ERROR
    )
    return tuple(sorted(verdicts, key=lambda one: one.peer))


def _verdict(decision: Decision, peering: Peering) -> Verdict:
    if not decision.offers:
        return Verdict(peering.peer, (), decision.reason, decision.detail)
    obstacles = {offer: _obstacle(offer, peering) for offer in decision.offers}
    told = tuple(dict.fromkeys(offer.prefix for offer, why in obstacles.items() if why is None))
    left = {offer.prefix: why for offer, why in obstacles.items() if why is not None and offer.prefix not in told}
    missing = "; ".join(f"{prefix} is not announced: {why.sentence}" for prefix, why in left.items())
    if not told:
        return Verdict(peering.peer, (), next(iter(left.values())), missing)
    return Verdict(peering.peer, told, Reason.BGP_ANNOUNCED, "; ".join([", ".join(_texts(told)), *([missing] if left else [])]))


class Table:
    """The decisions in force on this node, and the routes they make for each session.

    Keeps count of who offers a prefix, so that a change costs what it touches; check_invariants() proves the routes.
    """

    def __init__(self) -> None:
        self._neighborhood = Neighborhood()
        self._decisions: dict[ServiceKey, Decision] = {}
        self._offers: dict[Prefix, dict[Offer, int]] = {}
        self._routes: dict[PeerName, dict[Prefix, Route]] = {}
        self._touched: set[Prefix] = set()

    @property
    def decisions(self) -> Mapping[ServiceKey, Decision]:
        """All decisions in force."""
        return self._decisions

    @property
    def routes(self) -> Mapping[NeighborKey, Mapping[Prefix, Route]]:
        """What each session is to announce; the tables are live, and new ones after meet() where a session is another."""
        return {peering.neighbor.key: self._routes[peering.peer] for peering in self._neighborhood.peerings}

    def meet(self, neighborhood: Neighborhood) -> None:
        """Take in which sessions there are now."""
        before = {peering.peer: peering for peering in self._neighborhood.peerings}
        self._neighborhood = neighborhood
        self._routes = {
            peering.peer: self._routes[peering.peer] if before.get(peering.peer) == peering else dict(self._made(peering))
            for peering in neighborhood.peerings
        }

    def _made(self, peering: Peering) -> Iterator[tuple[Prefix, Route]]:
        for prefix, offers in self._offers.items():
            route = _route(prefix, offers, peering)
            if route is not None:
                yield prefix, route

    def adopt(self, decision: Decision) -> frozenset[PeerName]:
        """Put a decision in force; the peers whose routes change."""
        before = self._decisions.get(decision.service)
        self._decisions[decision.service] = decision
        return self._exchange(before, decision)

    def forget(self, service: ServiceKey) -> frozenset[PeerName]:
        """Drop the decision about a Service that is gone; the peers whose routes change."""
        return self._exchange(self._decisions.pop(service, None), None)

    def _exchange(self, before: Decision | None, after: Decision | None) -> frozenset[PeerName]:
        old, new = (frozenset(one.offers) if one is not None else frozenset[Offer]() for one in (before, after))
        for offer in old - new:
            self._drop(offer)
        for offer in new - old:
            counts = self._offers.setdefault(offer.prefix, {})
            counts[offer] = counts.get(offer, 0) + 1
        changed = set[PeerName]()
        self._touched.update(offer.prefix for offer in old ^ new)
        for prefix in {offer.prefix for offer in old ^ new}:
            changed |= self._renew(prefix)
        return frozenset(changed)

    def _drop(self, offer: Offer) -> None:
        counts = self._offers[offer.prefix]
        counts[offer] -= 1
        if not counts[offer]:
            del counts[offer]
        if not counts:
            del self._offers[offer.prefix]

    def _renew(self, prefix: Prefix) -> set[PeerName]:
        offers = self._offers.get(prefix, {})
        changed = set[PeerName]()
        for peering in self._neighborhood.peerings:
            table = self._routes[peering.peer]
            route = _route(prefix, offers, peering)
            if route == table.get(prefix):
                continue
            changed.add(peering.peer)
            if route is None:
                del table[prefix]
            else:
                table[prefix] = route
        return changed

    def touched(self) -> frozenset[Prefix]:
        """The prefixes whose routes may differ, in the same tables, from when this was asked last: for Supervisor.want()."""
        touched, self._touched = frozenset(self._touched), set()
        return touched

    def peers_of(self, service: ServiceKey) -> tuple[PeerName, ...]:
        """The peers that are told of a prefix of a Service, in name order: what ServiceBGPStatus shows.

        As in MetalLB the prefix counts, not who offers it: Services that share an address or an aggregate have the same peers.
        """
        decision = self._decisions.get(service)
        prefixes = {offer.prefix for offer in decision.offers} if decision is not None else set[Prefix]()
        return tuple(sorted(peer for peer, table in self._routes.items() if not prefixes.isdisjoint(table)))

    def verdicts(self, service: ServiceKey) -> tuple[Verdict, ...]:
        """What each peer is told of a Service, and why not; empty for a Service that nobody decided about."""
        decision = self._decisions.get(service)
        return () if decision is None else judge(decision, self._neighborhood)

    def check_invariants(self) -> None:
        """Assert that the counts and the routes are what the decisions make them."""
        counts: dict[Prefix, dict[Offer, int]] = {}
        for key, decision in self._decisions.items():
            assert key == decision.service, f"decision about {decision.service} is kept under {key}"
            for offer in decision.offers:
                of_prefix = counts.setdefault(offer.prefix, {})
                of_prefix[offer] = of_prefix.get(offer, 0) + 1
        assert counts == self._offers, "the count of offers does not match the decisions"
        made = {peering.peer: dict(self._made(peering)) for peering in self._neighborhood.peerings}
        assert made == self._routes, "the routes do not match the offers"
