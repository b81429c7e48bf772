"""Services: defaults, families, cluster addresses and node ports, and what rules.json cannot say of them.

The allocator is derived state: the addresses and ports that stored Services hold, kept by watching the store's changes, so
a restart needs no second copy. Called by kinds.py and api.py. Order and texts of the faults are those of the recorded answers
of a kube-apiserver.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterable
from typing import Any

from lab.apiserver import rules
from lab.apiserver.errors import Cause, forbidden, go_strings, internal, invalid_value, raw_invalid, required
from lab.apiserver.meta import faults_of
from lab.apiserver.rules import IP_DETAIL, WORDS, named
from lab.apiserver.store import Key

Json = dict[str, Any]

RANGES = {"IPv4": ipaddress.ip_network("10.96.0.0/16"), "IPv6": ipaddress.ip_network("fd00:10:96::/112")}
NODE_PORTS = range(30000, 32768)
API_SERVICE_ADDRESS = "10.96.0.1"
WITH_ADDRESS = ("ClusterIP", "NodePort", "LoadBalancer")


class Allocator:
    """Which cluster addresses and node ports are held, and by whom. Changes only through hold() and release()."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._by: dict[Key, list[Any]] = {}
        self._taken: set[Any] = set()  # Addresses, and node ports with protocol.

    def hold(self, key: Key, service: Json) -> None:
        """Take what the present version of a Service holds."""
        self.release(key)
        self._by[key] = held = [*addresses_of(service), *ports_of(service)]
        self._taken.update(held)

    def release(self, key: Key) -> None:
        """Forget what a Service held."""
        self._taken.difference_update(self._by.pop(key, ()))

    def taken(self, held: str | tuple[int, str]) -> bool:
        """Whether a Service holds the address, or the node port for a protocol."""
        return held in self._taken

    def free_address(self, family: str) -> str:
        """A free address of the upper part of the range, as the server picks."""
        network = RANGES[family]
        first, last = int(network.network_address) + 256, int(network.broadcast_address) - 1
        kind = ipaddress.IPv4Address if family == "IPv4" else ipaddress.IPv6Address
        while True:
            address = str(kind(self._rng.randint(first, last)))
            if address not in self._taken:
                return address

    def free_port(self, protocols: Iterable[str], beside: set[int]) -> int:
        """A node port that is free for all the protocols and not in `beside`.

        Raises:
            ApiError: 500 when there is none.

        """
        wanted = {*protocols, "TCP"}

        def free(port: int) -> bool:
            return port not in beside and not any((port, p) in self._taken for p in wanted)

        tries = [self._rng.choice(NODE_PORTS) for _ in range(16)]
        found = next((p for p in tries if free(p)), None) or next((p for p in NODE_PORTS if free(p)), None)
        if found is None:
            raise internal("failed to allocate a nodePort: range is full")
        return found


def addresses_of(service: Json) -> list[str]:
    """The cluster addresses a Service holds."""
    return [a for a in service.get("spec", {}).get("clusterIPs") or [] if a and a != "None"]


def ports_of(service: Json) -> list[tuple[int, str]]:
    """The node ports a Service holds, with protocol."""
    spec = service.get("spec", {})
    held = {(p["nodePort"], p.get("protocol", "TCP")) for p in spec.get("ports") or [] if p.get("nodePort")}
    if spec.get("healthCheckNodePort"):
        held.add((spec["healthCheckNodePort"], "TCP"))
    return sorted(held)


def needs_node_ports(spec: Json) -> bool:
    """Whether a Service of this form has node ports."""
    kind = spec.get("type")
    return kind == "NodePort" or (kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is not False)


def _external(spec: Json) -> bool:
    return spec.get("type") in {"NodePort", "LoadBalancer"} or (
        spec.get("type") == "ClusterIP" and bool(spec.get("externalIPs"))
    )


def _needs_health_port(spec: Json) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def default(service: Json) -> None:
    """Fill in what a Service leaves out."""
    spec = service["spec"]
    kind = spec.setdefault("type", "ClusterIP")
    if spec.get("sessionAffinity", "None") == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {}).setdefault("timeoutSeconds", 10800)
    for port in spec.get("ports") or []:
        if port.get("targetPort") in {None, 0, ""}:
            port["targetPort"] = port["port"]
    if _external(spec):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if kind in {"ClusterIP", "NodePort", "LoadBalancer"}:
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
        for entry in service["status"]["loadBalancer"].get("ingress") or []:
            if entry.get("ip"):
                entry.setdefault("ipMode", "VIP")
    if spec.get("clusterIP") and not spec.get("clusterIPs"):
        spec["clusterIPs"] = [spec["clusterIP"]]


def prepare(new: Json, old: Json | None) -> None:
    """Carry over what the server once chose, and drop what a change of type takes away. Before default()."""
    if old is None:
        return
    spec, was = new["spec"], old["spec"]
    kind, before = spec.get("type", "ClusterIP"), was.get("type")

    def drop(*names: str) -> None:
        for name in names:
            if spec.get(name) == was.get(name):
                spec.pop(name, None)

    if spec.get("clusterIP") != was.get("clusterIP") and was.get("clusterIPs") and spec.get("clusterIPs") == was["clusterIPs"]:
        spec["clusterIPs"] = [spec["clusterIP"]] if spec.get("clusterIP") else None
    if kind == "ExternalName" and before != "ExternalName":
        drop("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy")
    elif before != "ExternalName" and kind != "ExternalName":
        spec |= {name: was[name] for name in ("clusterIP", "clusterIPs") if not spec.get(name) and was.get(name)}
        if spec.get("ipFamilyPolicy") == "SingleStack" and len(was.get("ipFamilies") or []) == 2:
            spec |= {name: was[name][:1] for name in ("ipFamilies", "clusterIPs") if spec.get(name) == was.get(name)}
    if spec.get("clusterIPs", ...) is None:
        del spec["clusterIPs"]
    _keep_node_ports(spec, was, wanted=needs_node_ports({**spec, "type": kind}))
    if _needs_health_port(was):
        if not _needs_health_port({**spec, "type": kind}):
            drop("healthCheckNodePort")
        elif not spec.get("healthCheckNodePort"):
            spec["healthCheckNodePort"] = was.get("healthCheckNodePort")
    if before == "LoadBalancer" and kind != "LoadBalancer":
        drop("allocateLoadBalancerNodePorts", "loadBalancerClass")
        new["status"]["loadBalancer"] = {}
    if _external(was) and not _external({**spec, "type": kind}):
        drop("externalTrafficPolicy")


def _keep_node_ports(spec: Json, was: Json, *, wanted: bool) -> None:
    """Ports keep the node ports they had while the Service has any."""
    if not needs_node_ports(was):
        return
    ports, had = spec.get("ports") or [], was.get("ports") or []
    numbers = [p.get("nodePort") for p in ports]
    if not wanted:
        if numbers == [p.get("nodePort") for p in had]:
            for port in ports:
                port.pop("nodePort", None)
        return
    held = {(p.get("protocol", "TCP"), p.get("port")): p.get("nodePort") for p in had}
    for port in ports:
        number = held.get((port.get("protocol", "TCP"), port.get("port")))
        if not port.get("nodePort") and number and number not in numbers:
            port["nodePort"] = number


def _family(address: str) -> str | None:
    try:
        return f"IPv{ipaddress.ip_address(address).version}"
    except ValueError:
        return None


@named("cluster-addresses")
def _cluster_addresses(field: str, value: list[str] | None, _new: Json, _old: Json | None) -> list[Cause]:
    bad = [(at, a) for at, a in enumerate(value or []) if (a != "None" or at) and _family(a) is None]
    return [invalid_value(f"{field}[{at}]", address, IP_DETAIL) for at, address in bad]


def settle_families(service: Json) -> list[Cause]:
    """Decide ipFamilies and ipFamilyPolicy. Returns faults."""
    spec = service["spec"]
    out = rules.faults("Service/families", service, None)
    if out:
        return out
    addresses, families = spec.get("clusterIPs") or [], list(spec.get("ipFamilies") or [])
    many = len(families) > 1 or len(addresses) > 1
    policy = spec.setdefault("ipFamilyPolicy", "RequireDualStack" if many else "SingleStack")
    if policy == "SingleStack" and many:
        what = "IP families" if len(families) > 1 else "cluster IPs"
        detail = f"must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
        return [invalid_value("spec.ipFamilyPolicy", policy, detail)]
    for at, family in enumerate(map(_family, addresses)):
        if family is not None and at < len(families) and families[at] != family:
            detail = f"expected an {families[at]} value as indicated by `ipFamilies[{at}]`"
            out.append(invalid_value(f"spec.clusterIPs[{at}]", addresses[at], detail))
        elif family is not None and at >= len(families):
            families.append(family)
    families = families or ["IPv4"]
    headless = addresses[:1] == ["None"]
    if policy != "SingleStack" and len(families) == 1 and not (headless and not spec.get("selector")):
        families.append("IPv6" if families[0] == "IPv4" else "IPv4")
    spec["ipFamilies"] = families
    return out


def allocate(service: Json, old: Json | None, allocator: Allocator, *, dry: bool) -> list[Cause]:
    """Give a Service its cluster addresses and node ports, or say why it cannot have those it asks for."""
    spec = service["spec"]
    if spec.get("type") not in WITH_ADDRESS:
        return []
    out = settle_families(service)
    if out:
        return out
    asked = list(spec.get("clusterIPs") or [])
    held = set(addresses_of(old)) if old else set()
    for at, family in enumerate(spec["ipFamilies"] if asked[:1] != ["None"] else ()):
        if at >= len(asked):
            asked.append(str(RANGES[family].network_address) if dry else allocator.free_address(family))
        elif asked[at] not in held and not (held and at == 0):  # A change of the first one is refused by the rules.
            why = ""
            if ipaddress.ip_address(asked[at]) not in RANGES[family]:
                why = f"the provided IP ({asked[at]}) is not in the valid range. The range of valid IPs is {RANGES[family]}"
            elif allocator.taken(asked[at]):
                why = "provided IP is already allocated"
            if why:
                return [raw_invalid("spec.clusterIPs", go_strings(asked), f"failed to allocate IP {asked[at]}: {why}")]
    spec |= {"clusterIPs": asked, "clusterIP": asked[0]}
    return _allocate_ports(spec, old, allocator)


def _allocate_ports(spec: Json, old: Json | None, allocator: Allocator) -> list[Cause]:
    ports = [(f"spec.ports[{at}].nodePort", port, "nodePort") for at, port in enumerate(spec.get("ports") or [])]
    wanted = [*ports] if spec["type"] != "ClusterIP" else []
    if _needs_health_port(spec):
        wanted.append(("spec.healthCheckNodePort", spec, "healthCheckNodePort"))
    held = set(ports_of(old)) if old else set()
    chosen: set[int] = {p["nodePort"] for _, p, _ in ports if p.get("nodePort")}
    for field, holder, member in wanted:
        number, protocol = holder.get(member), holder.get("protocol", "TCP")
        if not number:
            if holder is spec or needs_node_ports(spec):
                holder[member] = allocator.free_port({protocol}, chosen)
                chosen.add(holder[member])
        elif (number, protocol) not in held and not (holder is spec and old and old["spec"].get(member)):
            if number not in NODE_PORTS:
                span = f"{NODE_PORTS.start}-{NODE_PORTS.stop - 1}"
                detail = f"provided port is not in the valid range. The range of valid ports is {span}"
                return [invalid_value(field, number, detail)]
            if allocator.taken((number, protocol)):
                return [invalid_value(field, number, "provided port is already allocated")]
    return []


@named("service-form")
def _form(_field: str, spec: Json, _new: Json, _old: Json | None) -> list[Cause]:
    """What the type of a Service, and being headless, demand and forbid."""
    kind, addresses = spec.get("type"), spec.get("clusterIPs") or []
    headless = addresses[:1] == ["None"]
    if kind == "ExternalName":
        out = [forbidden("spec.clusterIPs", "may not be set when `type` is 'ExternalName'")] if addresses else []
        name = spec.get("externalName", "").removesuffix(".")
        if not name:
            return [*out, required("spec.externalName")]
        return out + [invalid_value("spec.externalName", name, f) for f in faults_of("subdomain", name)]
    out = [] if spec.get("ports") or headless else [required("spec.ports")]
    if headless and kind in {"LoadBalancer", "NodePort"}:
        out.append(invalid_value("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services"))
    return out


@named("port-named")
def _port_named(field: str, name: str | None, new: Json, _old: Json | None) -> list[Cause]:
    return [required(field)] if not name and len(new["spec"]["ports"]) > 1 else []


@named("target-port")
def _target_port(field: str, target: int | str, new: Json, old: Json | None) -> list[Cause]:
    return (
        WORDS["form"]("port-name")(field, target, new, old)
        if isinstance(target, str)
        else WORDS["port"]("")(field, target, new, old)
    )


@named("external-only")
def _external_only(field: str, value: Any, new: Json, _old: Json | None) -> list[Cause]:
    misplaced = value and not _external(new["spec"])
    return [invalid_value(field, value, "may only be set for externally-accessible services")] if misplaced else []


@named("local-only")
def _local_only(field: str, value: Any, new: Json, _old: Json | None) -> list[Cause]:
    detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
    return [invalid_value(field, value, detail)] if value and not _needs_health_port(new["spec"]) else []


@named("service-unchanged")
def _unchanged(_field: str, spec: Json, _new: Json, old: Json | None) -> list[Cause]:
    """What an update may not change."""
    if old is None:
        return []
    was, out = old["spec"], list[Cause]()
    now, before = spec.get("clusterIPs") or [], was.get("clusterIPs") or []
    if now and before and now[0] != before[0] and "ExternalName" not in {spec["type"], was["type"]}:
        out.append(raw_invalid("spec.clusterIPs[0]", go_strings(now), "may not change once set"))
    if spec["type"] == was["type"] == "LoadBalancer" and spec.get("loadBalancerClass") != was.get("loadBalancerClass"):
        out.append(invalid_value("spec.loadBalancerClass", spec.get("loadBalancerClass"), "may not change once set"))
    if _needs_health_port(spec) and _needs_health_port(was) and spec["healthCheckNodePort"] != was.get("healthCheckNodePort"):
        out.append(forbidden("spec.healthCheckNodePort", "field is immutable"))
    return out


@named("ip-mode")
def _ip_mode(field: str, entry: Json, new: Json, _old: Json | None) -> list[Cause]:
    address, mode = entry.get("ip"), entry.get("ipMode")
    if address and mode is None and new["spec"].get("type") == "LoadBalancer":
        return [required(f"{field}.ipMode", "must be specified when `ip` is set")]
    return (
        [forbidden(f"{field}.ipMode", "may not be specified when `ip` is not set")] if mode is not None and not address else []
    )
