"""Say for each node whether it may announce a Service, and why not.

Called by plan.decide() for every candidate, and in part by bgp.routes; `/status` and lbctl show the verdicts. It judges facts that
all speakers share and never looks at this node's interfaces or start-up state: that comes after the election. It elects nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from config.model import EXCLUDE_LABEL, L2Advertisement, NodeName, PoolName
from config.selectors import matches, matches_any
from speaker.reason import Reason
from speaker.world import Cluster, Node, Service, TrafficPolicy, World


@dataclass(frozen=True, slots=True)
class Eligible:
    """The node may announce the Service."""


@dataclass(frozen=True, slots=True)
class Ineligible:
    """The node may not announce the Service (or no node may). `detail` names the facts."""

    reason: Reason
    detail: str


Verdict = Eligible | Ineligible
ELIGIBLE = Eligible()


@dataclass(frozen=True, slots=True)
class Terms:
    """Under which configuration a Service may be announced: the L2Advertisements of its pool that match its labels."""

    pool: PoolName
    advertisements: tuple[L2Advertisement, ...]


@dataclass(frozen=True, slots=True)
class Electorate:
    """What follows from a Cluster alone, whatever the Service.

    `standing` has a verdict for every node that is a member or a Node. `candidates` are those that are eligible, in name
    order. `reach` has the Nodes that each advertisement's nodeSelectors match, `scores` the sum of weights that its
    preferences give to each of them (absent: 0).
    """

    standing: Mapping[NodeName, Verdict]
    candidates: tuple[NodeName, ...]
    advertisements: Mapping[PoolName, tuple[L2Advertisement, ...]]
    reach: Mapping[str, frozenset[NodeName]]
    scores: Mapping[str, Mapping[NodeName, int]]


@lru_cache(maxsize=4)  # A Cluster is compared by identity; a decision uses the present one, a comparison also the one before.
def electorate(cluster: Cluster) -> Electorate:
    """Derive what all decisions about a Cluster have in common, once."""
    names = sorted(set(cluster.nodes) | (cluster.members or set()))
    standing = {name: _standing(name, cluster) for name in names}
    by_pool: dict[PoolName, tuple[L2Advertisement, ...]] = {}
    for advertisement in cluster.config.l2_advertisements:
        for pool in sorted(advertisement.pools):
            by_pool[pool] = (*by_pool.get(pool, ()), advertisement)
    reach = {one.name: _reach(one, cluster.nodes) for one in cluster.config.l2_advertisements}
    return Electorate(
        standing=standing,
        candidates=tuple(name for name in names if standing[name] is ELIGIBLE),
        advertisements=by_pool,
        reach=reach,
        scores={one.name: _scores(one, reach[one.name], cluster.nodes) for one in cluster.config.l2_advertisements},
    )


def _standing(name: NodeName, cluster: Cluster) -> Verdict:
    if cluster.members is not None and name not in cluster.members:
        return Ineligible(Reason.SPEAKER_DOWN, f"{name} is not a member of the gossip")
    node = cluster.nodes.get(name)
    if node is None:
        return Ineligible(Reason.NODE_UNKNOWN, f"{name} is a member of the gossip, but there is no Node {name}")
    return fit(node, cluster)


def fit(node: Node, cluster: Cluster) -> Verdict:
    """Whether a Node is fit for load balancing at all."""
    if node.excluded and cluster.honour_exclude_label:
        text = f"{node.name} has the label {EXCLUDE_LABEL}"
        return Ineligible(Reason.NODE_EXCLUDED, text)
    if node.network_unavailable:
        return Ineligible(Reason.NODE_NETWORK_UNAVAILABLE, f"{node.name} has the condition NetworkUnavailable")
    return ELIGIBLE


def _reach(advertisement: L2Advertisement, nodes: Mapping[NodeName, Node]) -> frozenset[NodeName]:
    selectors = advertisement.node_selectors
    return frozenset(name for name, node in nodes.items() if not selectors or matches_any(selectors, node.labels))


def _scores(
    advertisement: L2Advertisement, reach: frozenset[NodeName], nodes: Mapping[NodeName, Node]
) -> Mapping[NodeName, int]:
    """Weights add up over preferences; a node outside the advertisement's reach never scores."""
    scores: dict[NodeName, int] = {}
    for preference in advertisement.preferences:
        for name in sorted(reach):
            if matches(preference.selector, nodes[name].labels):
                scores[name] = scores.get(name, 0) + preference.weight
    return scores


def terms(service: Service, cluster: Cluster) -> Terms | Ineligible:
    """The terms for announcing a Service from anywhere, or why no node may."""
    pool = whence(service, cluster)
    if isinstance(pool, Ineligible):
        return pool
    if not service.ready:
        return Ineligible(Reason.NO_READY_ENDPOINT, f"none of the endpoints of {service.key} is ready")
    found = tuple(
        one
        for one in electorate(cluster).advertisements.get(pool, ())
        if not one.service_selectors or matches_any(one.service_selectors, service.labels)
    )
    if service.may_share and (restricted := [one.name for one in found if one.service_selectors]):
        return Ineligible(Reason.SHARED_WITH_SERVICE_SELECTOR, f"L2Advertisement {restricted[0]} has serviceSelectors")
    if not found:
        return Ineligible(Reason.NO_MATCHING_ADVERTISEMENT, f"no L2Advertisement selects pool {pool} and {service.key}")
    return Terms(pool, found)


def whence(service: Service, cluster: Cluster) -> PoolName | Ineligible:
    """The pool of the addresses: the one that contains them, else the one they came from if it exists and cannot be understood now."""
    if service.unreadable:
        return Ineligible(Reason.INVALID_ADDRESS, f"status.loadBalancer.ingress holds {service.unreadable!r}")
    if not service.addresses:
        return Ineligible(Reason.NO_ADDRESS, "status.loadBalancer.ingress is empty")
    pool = cluster.config.pool_of(service.addresses)
    if pool is not None:
        return pool.name
    if service.allocated_from is not None and service.allocated_from in cluster.config.broken_pools:
        return service.allocated_from
    texts = ", ".join(str(address) for address in service.addresses)
    return Ineligible(Reason.ADDRESS_IN_NO_POOL, f"no IPAddressPool contains {texts}")


def judge(service: Service, node: NodeName, world: World) -> Verdict:
    """Whether a node may announce a Service, other Services at the same address left aside."""
    found = terms(service, world.cluster)
    return found if isinstance(found, Ineligible) else _judge_under(found, service, node, world.cluster)


def _judge_under(found: Terms, service: Service, node: NodeName, cluster: Cluster) -> Verdict:
    everyone = electorate(cluster)
    verdict = everyone.standing.get(node, Ineligible(Reason.NODE_UNKNOWN, f"{node} is neither a Node nor a member"))
    if isinstance(verdict, Ineligible):
        return verdict
    if not any(node in everyone.reach[one.name] for one in found.advertisements):
        names = ", ".join(one.name for one in found.advertisements)
        return Ineligible(Reason.NO_MATCHING_ADVERTISEMENT, f"the nodeSelectors of {names} do not match {node}")
    if service.policy is TrafficPolicy.LOCAL and node not in service.ready_nodes:
        return Ineligible(Reason.NO_LOCAL_ENDPOINT, f"{service.key} has no ready endpoint on {node}")
    return ELIGIBLE


def candidates(found: Terms, service: Service, cluster: Cluster) -> tuple[NodeName, ...]:
    """The nodes that may announce a Service, in name order, other Services at the same address left aside."""
    return tuple(node for node in electorate(cluster).candidates if _judge_under(found, service, node, cluster) is ELIGIBLE)


def scores(found: Terms, cluster: Cluster) -> Mapping[NodeName, int]:
    """The preference of the matching advertisements for each node, added up."""
    of = electorate(cluster).scores
    total: dict[NodeName, int] = {}
    for advertisement in found.advertisements:
        for node, weight in of[advertisement.name].items():
            total[node] = total.get(node, 0) + weight
    return total
