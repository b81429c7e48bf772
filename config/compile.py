"""What users wrote, turned into the one Config that deciders see, with every problem named.

Called by both daemons whenever a configuration object or a Namespace changes, and by lbctl check. Pure and total: no
document, however strange, makes it raise.

The policy for bad input: a broken edition of an object is reported and replaced by its last valid edition. Where none is
known (after a restart) a broken pool is listed in Config.broken_pools: Services keep what they have from it, nothing new
is allocated. An object that is gone is gone at once. One broken object never holds up another.

Where pools overlap, exactly one loses. Pools whose edition in force has not changed keep their ranges; among new and
changed ones the older (by creationTimestamp, then name) does. The loser is broken, and falls back to its last valid
edition if that does not overlap either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import msgspec

from config.check import findings, show
from config.crd import structural
from config.kinds import GROUP, Configured
from config.kinds.ip_address_pool import IPAddressPool
from config.kinds.l2_advertisement import L2Advertisement as L2AdvertisementKind
from config.kinds.meta import Labels, LabelSelector, ObjectMeta
from config.model import (
    Config,
    InterfaceName,
    L2Advertisement,
    NodePreference,
    ObjectRef,
    Pool,
    PoolName,
    Selector,
)
from config.problem import Finding, Problem, Severity
from config.rules import Occupied, duplicate_name, l2_advertisement_rules, overlap, pool_rules
from config.selectors import compile_selector, matches_any
from config.values import parse_range

STRUCTS: Final[Mapping[str, type[Configured]]] = {
    "IPAddressPool": IPAddressPool,
    "L2Advertisement": L2AdvertisementKind,
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


def compile_config(
    objects: Iterable[Mapping[str, object]],
    namespaces: Mapping[str, Labels],
    last_valid: Mapping[ObjectRef, Configured],
) -> Compiled:
    """The configuration that the objects mean.

    Args:
        objects: parsed JSON documents of IPAddressPools and L2Advertisements; other kinds are ignored.
        namespaces: labels of every Namespace, for pools that are pinned by namespaceSelectors.
        last_valid: `valid` of the previous result; empty at start.

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
        problems += (Problem.of(ref, finding) for finding in found)
        candidates[ref.kind].append(_Candidate(ref, metadata, current, _last(last_valid.get(ref), metadata)))

    in_force = {**_disjoint_pools(candidates["IPAddressPool"], problems)}
    in_force |= {one.ref: one.editions[0] for one in candidates["L2Advertisement"] if one.editions}
    everything = [*candidates["IPAddressPool"], *candidates["L2Advertisement"]]
    replaced = frozenset(one.ref for one in everything if in_force.get(one.ref) is not one.current or one.current is None)
    broken = frozenset(PoolName(one.ref.name) for one in candidates["IPAddressPool"] if one.ref not in in_force)
    problems += (_broken_note(one, in_force) for one in everything if one.ref in replaced)
    config = _config(candidates, in_force, broken, namespaces)
    return Compiled(config, tuple(sorted(problems, key=_problem_order)), MappingProxyType(in_force), replaced)


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
    schema = structural(struct)["properties"]["spec"]
    spec = document.get("spec")
    if spec is None and "required" not in schema:
        spec = {}
    if spec is None:
        return None, [Finding("spec", "required", "is required", "add spec")]
    found = list(findings(spec, schema, "spec"))
    edition = _decoded(struct, _sound_members(spec, schema, found))
    if edition is None:
        assert found, ref
        return None, found
    edition = msgspec.structs.replace(edition, metadata=metadata)
    found += pool_rules(edition) if isinstance(edition, IPAddressPool) else l2_advertisement_rules(edition)
    return (None if any(one.severity is Severity.ERROR for one in found) else edition), found


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
    """The last valid edition of the same object (not of a deleted one of that name), with its current labels."""
    if edition is None or (edition.metadata.uid and metadata.uid and edition.metadata.uid != metadata.uid):
        return None
    return msgspec.structs.replace(edition, metadata=metadata)


def _disjoint_pools(candidates: list[_Candidate], problems: list[Problem]) -> dict[ObjectRef, Configured]:
    """For each pool the best edition that overlaps no pool before it; pools without one are left out."""
    occupied = Occupied()
    in_force: dict[ObjectRef, Configured] = {}
    for one in sorted(candidates, key=lambda one: one.seniority):
        for edition in one.editions:
            assert isinstance(edition, IPAddressPool)
            ranges = [parse_range(entry) for entry in edition.spec.addresses]
            overlaps = [(index, mine, other) for index, mine in enumerate(ranges) if (other := occupied.overlapping(mine))]
            if edition is one.current:
                problems += (
                    Problem.of(one.ref, overlap(f"spec.addresses[{index}]", mine, *other)) for index, mine, other in overlaps
                )
            if not overlaps:
                in_force[one.ref] = edition
                for mine in ranges:
                    occupied.add(mine, str(one.ref))
                break
    return in_force


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
    broken: frozenset[PoolName],
    namespaces: Mapping[str, Labels],
) -> Config:
    editions = sorted(in_force.values(), key=lambda edition: edition.metadata.name)
    pools = {PoolName(one.metadata.name): _pool(one, namespaces) for one in editions if isinstance(one, IPAddressPool)}
    labels = {PoolName(one.ref.name): one.metadata.labels or {} for one in candidates["IPAddressPool"]}
    advertisements = tuple(_l2_advertisement(one, labels) for one in editions if isinstance(one, L2AdvertisementKind))
    return Config(MappingProxyType(pools), advertisements, broken)


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
    )


def _l2_advertisement(edition: L2AdvertisementKind, pools: Mapping[PoolName, Labels]) -> L2Advertisement:
    spec = edition.spec
    by_label = _selectors(spec.ip_address_pool_selectors)
    unrestricted = not spec.ip_address_pools and not by_label
    chosen = (
        name for name, labels in pools.items() if unrestricted or name in spec.ip_address_pools or matches_any(by_label, labels)
    )
    return L2Advertisement(
        name=edition.metadata.name,
        pools=frozenset(chosen),
        node_selectors=_selectors(spec.node_selectors),
        service_selectors=_selectors(spec.service_selectors),
        interfaces=frozenset(InterfaceName(name) for name in spec.interfaces),
        preferences=tuple(
            NodePreference(one.weight, compile_selector(one.preference)) for one in spec.preferred_node_selectors
        ),
    )


def _selectors(selectors: Iterable[LabelSelector]) -> tuple[Selector, ...]:
    return tuple(compile_selector(one) for one in selectors)
