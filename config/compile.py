"""What users wrote, turned into the one Config that deciders see, with every problem named.

Called by both daemons whenever a configuration object or a Namespace changes, and by lbctl check. Pure and total: no
document, however strange, makes it raise.

The policy for bad input: a broken edition of an object is reported and replaced by its last valid edition. Where none is
known (after a restart) a broken pool is listed in Config.broken_pools: Services keep what they have from it, nothing new
is allocated. An object that is gone is gone at once. One broken object never holds up another.

Where two objects cannot both be in force (pools that overlap, a community defined twice), exactly one loses. Objects whose
edition in force has not changed stay; among new and changed ones the older (by creationTimestamp, then name) does. The
loser is broken, and falls back to its last valid edition if that fits. An object that was in force and is invalid only
because another one changed (a profile deleted, a pool made smaller) is reported and stays in force.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import msgspec

from config import convert
from config.check import findings, show
from config.crd import structural
from config.cross import (
    SOFT,
    AdvertisementJudge,
    CommunityJudge,
    Judge,
    L2Judge,
    PeerJudge,
    PoolJudge,
    ProfileJudge,
    Surroundings,
    chosen_pools,
)
from config.kinds import GROUP, Configured
from config.kinds.bfd_profile import BFDProfile
from config.kinds.bgp_advertisement import BGPAdvertisement
from config.kinds.bgp_peer import BGPPeer, BGPPeerV1Beta1
from config.kinds.community import Community as CommunityKind
from config.kinds.ip_address_pool import IPAddressPool
from config.kinds.l2_advertisement import L2Advertisement as L2AdvertisementKind
from config.kinds.meta import Labels, LabelSelector, ObjectMeta
from config.model import (
    BfdProfile,
    BgpAdvertisement,
    Community,
    Config,
    Election,
    InterfaceName,
    IPAddress,
    L2Advertisement,
    NodePreference,
    ObjectRef,
    Peer,
    PeerName,
    Pool,
    PoolName,
    Selector,
)
from config.problem import Finding, Problem, Severity
from config.rules import (
    ELECTION,
    RESERVED,
    bgp_advertisement_rules,
    community_rules,
    duplicate_name,
    l2_advertisement_rules,
    peer_rules,
    pool_rules,
)
from config.selectors import compile_selector, matches_any
from config.values import TextError, parse_address, parse_community, parse_duration, parse_range, parse_ranges

STRUCTS: Final[Mapping[str, type[Configured]]] = {
    "IPAddressPool": IPAddressPool,
    "L2Advertisement": L2AdvertisementKind,
    "BGPAdvertisement": BGPAdvertisement,
    "BGPPeer": BGPPeer,
    "BFDProfile": BFDProfile,
    "Community": CommunityKind,
}


@dataclass(frozen=True, slots=True)
class Compiled:
    """A configuration, what is wrong with its sources, and the editions it was made of.

    `valid` is to be passed as `last_valid` next time. `replaced` are the objects whose current edition is not in force.
    """

    config: Config
    problems: tuple[Problem, ...]
    valid: Mapping[ObjectRef, Configured]
    replaced: frozenset[ObjectRef] = frozenset()

    @property
    def stale(self) -> bool:
        """Whether something users wrote is not in force."""
        return any(problem.severity is Severity.ERROR for problem in self.problems)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """One object: its current edition if that is valid by itself, and its last valid one if known."""

    ref: ObjectRef
    metadata: ObjectMeta
    current: Configured | None
    last: Configured | None

    @property
    def editions(self) -> tuple[Configured, ...]:
        """What may be put in force, best first."""
        if self.current is not None and self.last is not None and self.current.spec != self.last.spec:
            return (self.current, self.last)
        best = self.current or self.last
        return () if best is None else (best,)

    @property
    def seniority(self) -> tuple[bool, str, str, str]:
        """Sorts unchanged editions first, then by age and name."""
        changed = self.last is None or (self.current is not None and self.current.spec != self.last.spec)
        return (changed, self.metadata.creation_timestamp, self.ref.name, self.ref.namespace)


EVERYWHERE: Final = Surroundings()


def compile_config(
    objects: Iterable[Mapping[str, object]],
    namespaces: Mapping[str, Labels],
    last_valid: Mapping[ObjectRef, Configured],
    surroundings: Surroundings = EVERYWHERE,
) -> Compiled:
    """The configuration that the objects mean.

    Args:
        objects: parsed JSON documents of the kinds that users write; other kinds are ignored.
        namespaces: labels of every Namespace, for pools that are pinned by namespaceSelectors.
        last_valid: `valid` of the previous result; empty at start.
        surroundings: what else decides, such as the mode of BGP and the nodes.

    """
    problems: list[Problem] = []
    candidates: dict[str, list[_Candidate]] = {kind: [] for kind in STRUCTS}
    names: set[tuple[str, str]] = set()
    for ref, metadata, document in sorted(_identified(objects, problems), key=_order):
        if (ref.kind, ref.name) in names:
            problems.append(Problem.of(ref, duplicate_name(ref.kind, ref.name)))
            continue
        names.add((ref.kind, ref.name))
        current, found = _understood(ref, metadata, document)
        if not _is_here(current, surroundings):
            continue
        problems += (Problem.of(ref, finding) for finding in found)
        candidates[ref.kind].append(_Candidate(ref, metadata, current, _last(last_valid.get(ref), metadata)))

    in_force, aliases = _in_force(candidates, surroundings, problems)
    everything = [one for kind in STRUCTS for one in candidates[kind]]
    replaced = frozenset(one.ref for one in everything if in_force.get(one.ref) is not one.current or one.current is None)
    problems += (_broken_note(one, in_force) for one in everything if one.ref in replaced)
    config = _config(candidates, in_force, aliases, namespaces)
    valid = {ref: _resolved(edition, aliases) for ref, edition in in_force.items()}
    return Compiled(config, tuple(sorted(problems, key=_problem_order)), MappingProxyType(valid), replaced)


def _is_here(edition: Configured | None, surroundings: Surroundings) -> bool:
    """Whether an edition matters to this node; one that is broken does."""
    if isinstance(edition, BGPPeer | BGPAdvertisement):
        return surroundings.is_here(edition.spec.node_selectors)
    return True


def _order(item: tuple[ObjectRef, ObjectMeta, object]) -> tuple[str, str, str, str]:
    ref, metadata, _ = item
    return (ref.kind, ref.name, metadata.creation_timestamp, ref.namespace)


def _problem_order(problem: Problem) -> tuple[ObjectRef, Severity, str, str]:
    return (problem.object, problem.severity, problem.path, problem.message)


def _identified(
    objects: Iterable[object], problems: list[Problem]
) -> Iterator[tuple[ObjectRef, ObjectMeta, Mapping[str, Any]]]:
    """The documents of our kinds, with names; those without a name become problems."""
    for document in objects:
        if not isinstance(document, Mapping):
            ref = ObjectRef("unknown", "", "")
            problems.append(Problem(ref, "", "type", "is not an object", "write a Kubernetes object", show(document)))
            continue
        kind, api_version = document.get("kind"), document.get("apiVersion", "")
        if kind not in list(STRUCTS) or str(api_version).partition("/")[0] not in {GROUP, ""}:
            continue
        metadata = _metadata(document.get("metadata"))
        ref = ObjectRef(str(kind), metadata.namespace, metadata.name)
        if not metadata.name:
            problems.append(Problem(ref, "metadata.name", "required", "is required", "give the object a name"))
            continue
        yield ref, metadata, document


def _metadata(value: object) -> ObjectMeta:
    """As much of metadata as can be understood; the API server never sends anything else."""
    try:
        return msgspec.convert(value, ObjectMeta)
    except msgspec.ValidationError:
        members = value if isinstance(value, Mapping) else {}
        texts = {name: members.get(name) for name in ("name", "namespace", "uid", "creationTimestamp")}
        return msgspec.convert({name: text for name, text in texts.items() if isinstance(text, str)}, ObjectMeta)


def _understood(ref: ObjectRef, metadata: ObjectMeta, document: Mapping[str, Any]) -> tuple[Configured | None, list[Finding]]:
    """The edition in a document, or None, with everything that is wrong with it."""
    struct = STRUCTS[ref.kind]
    old = ref.kind == "BGPPeer" and document.get("apiVersion") == convert.OLD
    schema = structural(BGPPeerV1Beta1 if old else struct)["properties"]["spec"]
    spec = document.get("spec")
    if spec is None and "required" not in schema:
        spec = {}
    if spec is None:
        return None, [Finding("spec", "required", "is required", "add spec")]
    found = list(findings(spec, schema, "spec"))
    sound = _sound_members(spec, schema, found)
    if old:
        sound = convert.convert({**document, "spec": sound}, convert.NEW)["spec"]
        found.append(OLD_PEER)
    edition = _decoded(struct, sound)
    if edition is None:
        assert found, ref
        return None, found
    edition = msgspec.structs.replace(edition, metadata=metadata)
    found += _rules(edition)
    return (None if any(one.severity is Severity.ERROR for one in found) else edition), found


OLD_PEER: Final = Finding(
    "apiVersion",
    "deprecated",
    "metallb.io/v1beta1 BGPPeer is deprecated",
    "use metallb.io/v1beta2",
    severity=Severity.WARNING,
)


def _rules(edition: Configured) -> Iterator[Finding]:
    """What is wrong with an edition by itself, beyond its schema."""
    match edition:
        case IPAddressPool():
            return pool_rules(edition)
        case L2AdvertisementKind():
            return l2_advertisement_rules(edition)
        case BGPAdvertisement():
            return bgp_advertisement_rules(edition)
        case BGPPeer():
            return peer_rules(edition)
        case CommunityKind():
            return community_rules(edition)
        case BFDProfile():
            return iter(())


def _sound_members(spec: object, schema: Mapping[str, Any], found: list[Finding]) -> Mapping[str, Any]:
    """The members of a spec that the schema allows, so that rules can look at them even beside broken ones."""
    if not isinstance(spec, Mapping):
        return {}
    unsound = {finding.path.removeprefix("spec.").partition(".")[0].partition("[")[0] for finding in found}
    return {name: value for name, value in spec.items() if name not in unsound and name in schema["properties"]}


def _decoded(struct: type[Configured], spec: Mapping[str, Any]) -> Configured | None:
    """The struct; None if a required member was unsound."""
    try:
        return msgspec.convert({"spec": spec}, struct)
    except msgspec.ValidationError:
        return None


def _last(edition: Configured | None, metadata: ObjectMeta) -> Configured | None:
    """The last valid edition of the same object (not of a deleted one of that name), with its current labels.

    Its annotations stay with it: they may be what is broken now.
    """
    if edition is None or (edition.metadata.uid and metadata.uid and edition.metadata.uid != metadata.uid):
        return None
    return msgspec.structs.replace(
        edition, metadata=msgspec.structs.replace(metadata, annotations=edition.metadata.annotations)
    )


def _in_force(
    candidates: Mapping[str, list[_Candidate]], around: Surroundings, problems: list[Problem]
) -> tuple[dict[ObjectRef, Configured], Mapping[str, Community]]:
    """The edition of each object that is in force, and the names of communities."""
    profiles, communities, pools = ProfileJudge(around), CommunityJudge(around), PoolJudge()
    in_force: dict[ObjectRef, Configured] = {}
    in_force |= _admit(candidates["BFDProfile"], profiles, problems)
    in_force |= _admit(candidates["Community"], communities, problems)
    in_force |= _admit(candidates["IPAddressPool"], pools, problems)
    in_force |= _admit(candidates["L2Advertisement"], L2Judge(), problems)
    peers = PeerJudge(around, profiles.profiles)
    in_force |= _admit(candidates["BGPPeer"], peers, problems)
    labels = _labels_of_pools(candidates)
    advertisements = AdvertisementJudge(around, labels, pools.pools, communities.aliases, peers.peers, profiles.profiles)
    in_force |= _admit(candidates["BGPAdvertisement"], advertisements, problems)
    return in_force, communities.aliases


def _admit(candidates: list[_Candidate], judge: Judge[Any], problems: list[Problem]) -> dict[ObjectRef, Configured]:
    """For each object the best edition that its judge accepts beside those before it; objects without one are left out."""
    in_force: dict[ObjectRef, Configured] = {}
    for one in sorted(candidates, key=lambda one: one.seniority):
        for edition in one.editions:
            found = list(judge.findings(one.ref, edition))
            if edition is one.current:
                problems += (Problem.of(one.ref, finding) for finding in found)
            proven = one.last is not None and edition.spec == one.last.spec
            if not any(finding.severity is Severity.ERROR and not (proven and finding.code in SOFT) for finding in found):
                in_force[one.ref] = edition
                judge.accept(one.ref, edition)
                break
    return in_force


def _labels_of_pools(candidates: Mapping[str, list[_Candidate]]) -> dict[str, Labels]:
    """Name → labels of every pool, broken ones included."""
    return {one.ref.name: one.metadata.labels or {} for one in candidates["IPAddressPool"]}


def _broken_note(one: _Candidate, in_force: Mapping[ObjectRef, Configured]) -> Problem:
    """Says what happens instead of what the user wrote."""
    if one.ref in in_force:
        message = "this edition is not in force; the last valid one is used instead"
    elif one.ref.kind == "IPAddressPool":
        message = "no valid edition is known; Services keep addresses they have from this pool, and it gives out no new ones"
    else:
        message = "no valid edition is known; it is ignored"
    return Problem(one.ref, "", "not-in-force", message, "repair the object", severity=Severity.WARNING)


def _config(
    candidates: Mapping[str, list[_Candidate]],
    in_force: Mapping[ObjectRef, Configured],
    aliases: Mapping[str, Community],
    namespaces: Mapping[str, Labels],
) -> Config:
    editions = sorted(in_force.values(), key=lambda edition: edition.metadata.name)
    labels = _labels_of_pools(candidates)
    profiles = {one.metadata.name: _bfd_profile(one) for one in editions if isinstance(one, BFDProfile)}
    return Config(
        pools=MappingProxyType(
            {PoolName(one.metadata.name): _pool(one, namespaces) for one in editions if isinstance(one, IPAddressPool)}
        ),
        l2_advertisements=tuple(_l2_advertisement(one, labels) for one in editions if isinstance(one, L2AdvertisementKind)),
        broken_pools=frozenset(PoolName(one.ref.name) for one in candidates["IPAddressPool"] if one.ref not in in_force),
        peers=tuple(_peer(one, profiles) for one in editions if isinstance(one, BGPPeer)),
        bgp_advertisements=tuple(
            _bgp_advertisement(one, labels, aliases) for one in editions if isinstance(one, BGPAdvertisement)
        ),
        bfd_profiles=MappingProxyType(profiles),
    )


def _pool(edition: IPAddressPool, namespaces: Mapping[str, Labels]) -> Pool:
    allocation = edition.spec.service_allocation
    allowed: frozenset[str] | None = None
    if allocation is not None and (allocation.namespaces or allocation.namespace_selectors):
        selectors = _selectors(allocation.namespace_selectors)
        by_label = (name for name, labels in namespaces.items() if matches_any(selectors, labels))
        allowed = frozenset(allocation.namespaces) | frozenset(by_label)
    return Pool(
        name=PoolName(edition.metadata.name),
        ranges=tuple(parse_range(entry) for entry in edition.spec.addresses),
        labels=MappingProxyType(dict(edition.metadata.labels or {})),
        auto_assign=edition.spec.auto_assign,
        avoid_buggy_ips=edition.spec.avoid_buggy_ips,
        pinned=allocation is not None,
        priority=(allocation.priority or 0) if allocation else 0,
        namespaces=allowed,
        service_selectors=_selectors(allocation.service_selectors) if allocation else (),
        reserved=parse_ranges((edition.metadata.annotations or {}).get(RESERVED, "")),
    )


def _l2_advertisement(edition: L2AdvertisementKind, pools: Mapping[str, Labels]) -> L2Advertisement:
    spec = edition.spec
    return L2Advertisement(
        name=edition.metadata.name,
        pools=frozenset(PoolName(name) for name in chosen_pools(edition, pools)),
        node_selectors=_selectors(spec.node_selectors),
        service_selectors=_selectors(spec.service_selectors),
        interfaces=frozenset(InterfaceName(name) for name in spec.interfaces),
        preferences=tuple(
            NodePreference(one.weight, compile_selector(one.preference)) for one in spec.preferred_node_selectors
        ),
        election=Election((edition.metadata.annotations or {}).get(ELECTION, Election.COMPATIBLE)),
    )


def _bgp_advertisement(
    edition: BGPAdvertisement, pools: Mapping[str, Labels], aliases: Mapping[str, Community]
) -> BgpAdvertisement:
    spec = edition.spec
    return BgpAdvertisement(
        name=edition.metadata.name,
        pools=frozenset(PoolName(name) for name in chosen_pools(edition, pools)),
        aggregation_length=spec.aggregation_length,
        aggregation_length_v6=spec.aggregation_length_v6,
        local_pref=spec.local_pref,
        communities=frozenset(one for text in spec.communities if (one := _community(text, aliases)) is not None),
        peers=frozenset(PeerName(name) for name in spec.peers) if spec.peers else None,
        node_selectors=_selectors(spec.node_selectors),
        service_selectors=_selectors(spec.service_selectors),
    )


def _resolved(edition: Configured, aliases: Mapping[str, Community]) -> Configured:
    """The edition as it is to be remembered: with numbers for names of communities, which may be gone one day."""
    if not isinstance(edition, BGPAdvertisement) or aliases.keys().isdisjoint(edition.spec.communities):
        return edition
    numbers = tuple(dict.fromkeys(str(aliases.get(text, text)) for text in edition.spec.communities))
    return msgspec.structs.replace(edition, spec=msgspec.structs.replace(edition.spec, communities=numbers))


def _community(text: str, aliases: Mapping[str, Community]) -> Community | None:
    """The community that a text in an advertisement stands for; None for a name that nothing defines."""
    try:
        return aliases.get(text) or parse_community(text)
    except TextError:
        return None


def _bfd_profile(edition: BFDProfile) -> BfdProfile:
    spec = edition.spec
    return BfdProfile(
        name=edition.metadata.name,
        receive_interval_ms=spec.receive_interval,
        transmit_interval_ms=spec.transmit_interval,
        detect_multiplier=spec.detect_multiplier,
        echo_interval_ms=spec.echo_interval,
        echo_mode=bool(spec.echo_mode),
        passive_mode=bool(spec.passive_mode),
        minimum_ttl=spec.minimum_ttl,
    )


def _peer(edition: BGPPeer, profiles: Mapping[str, BfdProfile]) -> Peer:
    spec = edition.spec
    hold_s, keepalive_s = _timers(spec.hold_time, spec.keepalive_time)
    return Peer(
        name=PeerName(edition.metadata.name),
        my_asn=spec.my_asn,
        peer_asn=spec.peer_asn or None,
        dynamic_asn=spec.dynamic_asn,
        address=_address(spec.peer_address),
        interface=InterfaceName(spec.interface) if spec.interface else None,
        source_address=_address(spec.source_address),
        port=spec.peer_port,
        hold_time_s=hold_s,
        keepalive_time_s=keepalive_s,
        connect_time_s=None if spec.connect_time is None else parse_duration(spec.connect_time),
        router_id=_address(spec.router_id),
        node_selectors=_selectors(spec.node_selectors),
        password=spec.password,
        password_secret=spec.password_secret.name if spec.password_secret is not None else "",
        bfd_profile=spec.bfd_profile if spec.bfd_profile in profiles else "",
        graceful_restart=bool(spec.enable_graceful_restart),
        ebgp_multi_hop=bool(spec.ebgp_multi_hop),
        vrf=spec.vrf,
        dual_stack=spec.dual_stack_address_family,
        local_asn=spec.local_asn,
    )


def _address(text: str) -> IPAddress | None:
    return parse_address(text) if text else None


def _timers(hold: str | None, keepalive: str | None) -> tuple[float | None, float | None]:
    """Hold and keepalive time in seconds; each follows from the other where only one is given."""
    hold_s = None if hold is None else parse_duration(hold)
    keepalive_s = None if keepalive is None else parse_duration(keepalive)
    if hold_s is not None and keepalive_s is None:
        keepalive_s = hold_s / 3
    if keepalive_s is not None and hold_s is None:
        hold_s = keepalive_s * 3
    return hold_s, keepalive_s


def _selectors(selectors: Iterable[LabelSelector]) -> tuple[Selector, ...]:
    return tuple(compile_selector(one) for one in selectors)
