"""Services: defaults, families, cluster addresses, node ports, and what a Service may say.

The allocator is derived state: the addresses and ports that stored Services hold, kept by watching the store's changes, so
a restart needs no second copy. Called by kinds.py through the hooks of the Service row. Order and texts of the faults are
those of the recorded answers of a kube-apiserver.
"""

from __future__ import annotations

import ipaddress
import random
import re
from collections.abc import Iterable
from typing import Any

from lab.apiserver.errors import (
    Cause,
    duplicate,
    forbidden,
    internal,
    invalid_value,
    raw_duplicate,
    raw_invalid,
    required,
    unsupported,
)
from lab.apiserver.meta import label_causes, label_faults, qualified_faults, subdomain_faults
from lab.apiserver.rules import IP_DETAIL, PORT, Rule, among, holds, said_by, unique
from lab.apiserver.store import Key

Json = dict[str, Any]

RANGES = {"IPv4": ipaddress.ip_network("10.96.0.0/16"), "IPv6": ipaddress.ip_network("fd00:10:96::/112")}
NODE_PORTS = range(30000, 32768)
API_SERVICE_ADDRESS = "10.96.0.1"
_POLICIES = ("PreferDualStack", "RequireDualStack", "SingleStack")


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

    def address_taken(self, address: str) -> bool:
        """Whether a Service holds the address."""
        return address in self._taken

    def port_taken(self, port: int, protocol: str) -> bool:
        """Whether a Service holds the node port for this protocol."""
        return (port, protocol) in self._taken

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
    if (
        spec.get("clusterIP") != was.get("clusterIP")
        and spec.get("clusterIPs") == was.get("clusterIPs")
        and was.get("clusterIPs")
    ):
        spec["clusterIPs"] = [spec["clusterIP"]] if spec.get("clusterIP") else []
        if not spec["clusterIPs"]:
            del spec["clusterIPs"]
    kind, before = spec.get("type", "ClusterIP"), was.get("type")
    if kind == "ExternalName" and before != "ExternalName":
        for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"):
            if spec.get(name) == was.get(name):
                spec.pop(name, None)
    elif before != "ExternalName" and kind != "ExternalName":
        for name in ("clusterIP", "clusterIPs"):
            if not spec.get(name) and was.get(name):
                spec[name] = was[name]
        if spec.get("ipFamilyPolicy") == "SingleStack" and len(was.get("ipFamilies") or []) == 2:
            for name in ("ipFamilies", "clusterIPs"):
                if spec.get(name) == was.get(name):
                    spec[name] = was[name][:1]
    probe = {"type": kind, "allocateLoadBalancerNodePorts": spec.get("allocateLoadBalancerNodePorts")}
    if needs_node_ports(was) and needs_node_ports(probe):
        held = {(p.get("protocol", "TCP"), p.get("port")): p.get("nodePort") for p in was.get("ports") or []}
        used = {p.get("nodePort") for p in spec.get("ports") or []}
        for port in spec.get("ports") or []:
            node_port = held.get((port.get("protocol", "TCP"), port.get("port")))
            if not port.get("nodePort") and node_port and node_port not in used:
                port["nodePort"] = node_port
    elif needs_node_ports(was) and [p.get("nodePort") for p in spec.get("ports") or []] == [
        p.get("nodePort") for p in was.get("ports") or []
    ]:
        for port in spec.get("ports") or []:
            port.pop("nodePort", None)
    local = kind == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"
    if _needs_health_port(was) and was.get("healthCheckNodePort"):
        if local and not spec.get("healthCheckNodePort"):
            spec["healthCheckNodePort"] = was["healthCheckNodePort"]
        elif not local and spec.get("healthCheckNodePort") == was["healthCheckNodePort"]:
            spec.pop("healthCheckNodePort")
    if before == "LoadBalancer" and kind != "LoadBalancer":
        for name in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
            if spec.get(name) == was.get(name):
                spec.pop(name, None)
    if (
        _external(was)
        and not _external({**spec, "type": kind})
        and spec.get("externalTrafficPolicy") == was.get("externalTrafficPolicy")
    ):
        spec.pop("externalTrafficPolicy", None)
    if kind != "LoadBalancer" and before == "LoadBalancer":
        new["status"]["loadBalancer"] = {}


def _family(address: str) -> str | None:
    try:
        return f"IPv{ipaddress.ip_address(address).version}"
    except ValueError:
        return None


def settle_families(service: Json) -> list[Cause]:
    """Decide ipFamilies and ipFamilyPolicy. Returns faults."""
    spec = service["spec"]
    if spec.get("type") not in {"ClusterIP", "NodePort", "LoadBalancer"}:
        return []
    addresses = spec.get("clusterIPs") or []
    headless = bool(addresses) and addresses[0] == "None"
    out: list[Cause] = []
    for at, address in enumerate(addresses):
        if (address != "None" or at) and _family(address) is None:
            out.append(invalid_value(f"spec.clusterIPs[{at}]", address, IP_DETAIL))
    families = list(spec.get("ipFamilies") or [])
    for at, family in enumerate(families):
        if family not in RANGES:
            out.append(unsupported(f"spec.ipFamilies[{at}]", family, ("IPv4", "IPv6")))
        elif family in families[:at]:
            out.append(duplicate(f"spec.ipFamilies[{at}]", family))
    policy = spec.get("ipFamilyPolicy")
    if policy is not None and policy not in _POLICIES:
        out.append(unsupported("spec.ipFamilyPolicy", policy, _POLICIES))
    if out:
        return out
    if policy is None:
        many = len(families) > 1 or len(addresses) > 1
        policy = spec["ipFamilyPolicy"] = "RequireDualStack" if many else "SingleStack"
    if policy == "SingleStack":
        detail = "must be 'RequireDualStack' or 'PreferDualStack' when multiple {} are specified"
        if len(families) > 1:
            out.append(invalid_value("spec.ipFamilyPolicy", policy, detail.format("IP families")))
        if len(addresses) > 1:
            out.append(invalid_value("spec.ipFamilyPolicy", policy, detail.format("cluster IPs")))
        if out:
            return out
    for at, address in enumerate(addresses):
        family = _family(address)
        if family is None:
            continue
        if at < len(families) and families[at] != family:
            out.append(
                invalid_value(
                    f"spec.clusterIPs[{at}]", address, f"expected an {families[at]} value as indicated by `ipFamilies[{at}]`"
                )
            )
        elif at >= len(families):
            families.append(family)
    if out:
        return out
    if not families:
        families = ["IPv4"]
    if policy != "SingleStack" and len(families) == 1 and not (headless and not spec.get("selector")):
        families.append("IPv6" if families[0] == "IPv4" else "IPv4")
    spec["ipFamilies"] = families
    return out


def allocate(service: Json, old: Json | None, allocator: Allocator, *, dry: bool) -> list[Cause]:
    """Give a Service its cluster addresses and node ports, or say why it cannot have those it asks for."""
    spec = service["spec"]
    faults = settle_families(service)
    if faults or spec.get("type") not in {"ClusterIP", "NodePort", "LoadBalancer"}:
        return faults
    asked = list(spec.get("clusterIPs") or [])
    held = set(addresses_of(old)) if old else set()
    if not (asked and asked[0] == "None"):
        for at, family in enumerate(spec["ipFamilies"]):
            if at < len(asked):
                address = asked[at]
                if address in held:
                    continue
                shown = "[]string{" + ", ".join(f'"{a}"' for a in asked) + "}"
                if old and held and at == 0:
                    continue  # The change itself is the fault; validation says so.
                if ipaddress.ip_address(address) not in RANGES[family]:
                    detail = (
                        f"the provided IP ({address}) is not in the valid range. The range of valid IPs is {RANGES[family]}"
                    )
                    return [raw_invalid("spec.clusterIPs", shown, f"failed to allocate IP {address}: {detail}")]
                if allocator.address_taken(address):
                    return [
                        raw_invalid(
                            "spec.clusterIPs", shown, f"failed to allocate IP {address}: provided IP is already allocated"
                        )
                    ]
            else:
                asked.append(str(RANGES[family].network_address) if dry else allocator.free_address(family))
        spec["clusterIPs"] = asked
    spec["clusterIP"] = asked[0]
    return _allocate_ports(spec, old, allocator)


def _allocate_ports(spec: Json, old: Json | None, allocator: Allocator) -> list[Cause]:
    held = set(ports_of(old)) if old else set()
    chosen: set[int] = {p["nodePort"] for p in spec.get("ports") or [] if p.get("nodePort")}
    if spec["type"] in {"NodePort", "LoadBalancer"}:
        for at, port in enumerate(spec.get("ports") or []):
            number, protocol = port.get("nodePort"), port.get("protocol", "TCP")
            if number and (number, protocol) not in held:
                fault = _port_fault(f"spec.ports[{at}].nodePort", number, protocol, allocator)
                if fault:
                    return [fault]
            elif not number and needs_node_ports(spec):
                port["nodePort"] = allocator.free_port({protocol}, chosen)
                chosen.add(port["nodePort"])
    if _needs_health_port(spec):
        number = spec.get("healthCheckNodePort")
        if not number:
            spec["healthCheckNodePort"] = allocator.free_port({"TCP"}, chosen)
        elif (number, "TCP") not in held and not (old and old["spec"].get("healthCheckNodePort")):
            fault = _port_fault("spec.healthCheckNodePort", number, "TCP", allocator)
            if fault:
                return [fault]
    return []


def _port_fault(field: str, number: int, protocol: str, allocator: Allocator) -> Cause | None:
    if number not in NODE_PORTS:
        detail = (
            f"provided port is not in the valid range. The range of valid ports is {NODE_PORTS.start}-{NODE_PORTS.stop - 1}"
        )
        return invalid_value(field, number, detail)
    if allocator.port_taken(number, protocol):
        return invalid_value(field, number, "provided port is already allocated")
    return None


def _port_name_faults(name: str) -> list[str]:
    """Why a text is no IANA service name, which a named target port is."""
    rules = (
        (len(name) > 15, "must be no more than 15 characters"),
        (not re.fullmatch(r"[-a-z0-9]*", name), "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"),
        (not re.search(r"[a-z]", name), "must contain at least one letter (a-z)"),
        ("--" in name, "must not contain consecutive hyphens"),
        (name.startswith("-") or name.endswith("-"), "must not begin or end with a hyphen"),
    )
    return [detail for broken, detail in rules if broken]


def _form(_field: str, spec: Json, _new: Json, _old: Json | None) -> list[Cause]:
    """What the type of a Service, and being headless, demand and forbid."""
    kind, addresses = spec.get("type"), spec.get("clusterIPs") or []
    headless = addresses[:1] == ["None"]
    if kind == "ExternalName":
        out = [forbidden("spec.clusterIPs", "may not be set when `type` is 'ExternalName'")] if addresses else []
        name = spec.get("externalName", "").removesuffix(".")
        if not name:
            return [*out, required("spec.externalName")]
        return out + [invalid_value("spec.externalName", name, f) for f in subdomain_faults(name)]
    out = [] if spec.get("ports") or headless else [required("spec.ports")]
    if headless and kind in {"LoadBalancer", "NodePort"}:
        out.append(invalid_value("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services"))
    return out


def _port(field: str, port: Json, new: Json, old: Json | None) -> list[Cause]:
    if not port.get("name"):
        out = [required(f"{field}.name")] if len(new["spec"]["ports"]) > 1 else []
    else:
        out = [invalid_value(f"{field}.name", port["name"], f) for f in label_faults(port["name"])]
    target = port["targetPort"]
    named = said_by(_port_name_faults) if isinstance(target, str) else PORT
    return [
        *out, *PORT(f"{field}.port", port["port"], new, old), *_PROTOCOL(f"{field}.protocol", port["protocol"], new, old),
        *named(f"{field}.targetPort", target, new, old),
        *said_by(qualified_faults)(f"{field}.appProtocol", port.get("appProtocol"), new, old),
    ]  # fmt: skip


def _ports_together(field: str, ports: list[Json] | None, new: Json, _old: Json | None) -> list[Cause]:
    out: list[Cause] = []
    seen = set()
    for at, port in enumerate(ports or []):
        key = (port["protocol"], port["port"])
        if key in seen:
            shown = (
                f'core.ServicePort{{Name:"", Protocol:"{port["protocol"]}", AppProtocol:(*string)(nil), Port:{port["port"]}, '
                'TargetPort:intstr.IntOrString{Type:0, IntVal:0, StrVal:""}, NodePort:0}'
            )
            out.append(raw_duplicate(f"{field}[{at}]", shown))
        seen.add(key)
        if new["spec"].get("type") == "ClusterIP" and port.get("nodePort"):
            out.append(forbidden(f"{field}[{at}].nodePort", "may not be used when `type` is 'ClusterIP'"))
    return out


def _external_ip_faults(address: str) -> list[str]:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return [IP_DETAIL]
    rules = (
        (parsed.is_unspecified, f"may not be unspecified ({parsed})"),
        (parsed.is_loopback, "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (parsed.is_link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
    )
    return [detail for broken, detail in rules if broken]


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        return False
    return True


def _balancer_only(field: str, value: Any, new: Json, _old: Json | None) -> list[Cause]:
    misplaced = value not in (None, []) and new["spec"].get("type") != "LoadBalancer"
    return [forbidden(field, "may only be used when `type` is 'LoadBalancer'")] if misplaced else []


def _external_only(field: str, value: Any, new: Json, _old: Json | None) -> list[Cause]:
    misplaced = value and not _external(new["spec"])
    return [invalid_value(field, value, "may only be set for externally-accessible services")] if misplaced else []


def _local_only(field: str, value: Any, new: Json, _old: Json | None) -> list[Cause]:
    detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
    return [invalid_value(field, value, detail)] if value and not _needs_health_port(new["spec"]) else []


def _unchanged(_field: str, spec: Json, _new: Json, old: Json | None) -> list[Cause]:
    """What an update may not change."""
    if old is None:
        return []
    was, out = old["spec"], list[Cause]()
    now, before = spec.get("clusterIPs") or [], was.get("clusterIPs") or []
    if now and before and now[0] != before[0] and "ExternalName" not in {spec["type"], was["type"]}:
        shown = "[]string{" + ", ".join(f'"{a}"' for a in now) + "}"
        out.append(raw_invalid("spec.clusterIPs[0]", shown, "may not change once set"))
    if spec["type"] == was["type"] == "LoadBalancer" and spec.get("loadBalancerClass") != was.get("loadBalancerClass"):
        out.append(invalid_value("spec.loadBalancerClass", spec.get("loadBalancerClass"), "may not change once set"))
    number, held = spec.get("healthCheckNodePort"), was.get("healthCheckNodePort")
    if _needs_health_port(spec) and _needs_health_port(was) and number != held:
        out.append(forbidden("spec.healthCheckNodePort", "field is immutable"))
    return out


def _ingress_entry(field: str, entry: Json, _new: Json, _old: Json | None) -> list[Cause]:
    out: list[Cause] = []
    address, mode, host = entry.get("ip"), entry.get("ipMode"), entry.get("hostname")
    if address and _family(address) is None:
        out.append(invalid_value(f"{field}.ip", address, IP_DETAIL))
    if address and mode is None:
        out.append(required(f"{field}.ipMode", "must be specified when `ip` is set"))
    elif not address and mode is not None:
        out.append(forbidden(f"{field}.ipMode", "may not be specified when `ip` is not set"))
    elif mode not in {None, "VIP", "Proxy"}:
        out.append(unsupported(f"{field}.ipMode", mode, ("Proxy", "VIP")))
    if host:
        out += [invalid_value(f"{field}.hostname", host, f) for f in subdomain_faults(host)]
        if _family(host):
            out.append(invalid_value(f"{field}.hostname", host, "must be a DNS name, not an IP address"))
    return out


def _ingress(field: str, entries: Any, new: Json, old: Json | None) -> list[Cause]:
    if entries and new["spec"].get("type") != "LoadBalancer":
        return [forbidden(field, "may only be used when `spec.type` is 'LoadBalancer'")]
    return [c for at, entry in enumerate(entries or []) for c in _ingress_entry(f"{field}[{at}]", entry, new, old)]


_PROTOCOL = among("SCTP", "TCP", "UDP")
STATUS_RULES: tuple[Rule, ...] = (("status.loadBalancer.ingress", _ingress),)
RULES: tuple[Rule, ...] = (
    ("spec", _form),
    ("spec.ports[*]", _port),
    ("spec.ports", unique("name")),
    ("spec.selector", lambda field, value, _new, _old: label_causes(value or {}, field)),
    ("spec.sessionAffinity", among("ClientIP", "None")),
    (
        "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
        holds(lambda v: 0 < v <= 86400, "must be greater than 0 and less than 86400"),
    ),
    ("spec.externalIPs[*]", said_by(_external_ip_faults)),
    ("spec.type", among("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")),
    ("spec.ports", _ports_together),
    ("spec.loadBalancerSourceRanges as spec.LoadBalancerSourceRanges", _balancer_only),
    (
        "spec.loadBalancerSourceRanges[*] as spec.LoadBalancerSourceRanges",
        holds(_is_network, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
    ),
    ("spec.allocateLoadBalancerNodePorts", _balancer_only),
    ("spec.loadBalancerClass", _balancer_only, said_by(qualified_faults)),
    ("spec.internalTrafficPolicy", among("Cluster", "Local")),
    ("spec.trafficDistribution", among("PreferClose")),
    ("spec.externalTrafficPolicy", _external_only, among("Cluster", "Local")),
    ("spec.healthCheckNodePort", _local_only),
    ("spec", _unchanged),
    *STATUS_RULES,
)


def warnings(service: Json) -> list[str]:
    """What the server accepts and warns of."""
    address = service["spec"].get("loadBalancerIP")
    if service["spec"].get("type") == "LoadBalancer" and address and _family(address) is None:
        intro = "spec.loadBalancerIP: IP address was accepted, but will be invalid in a future Kubernetes release"
        return [f'{intro}: ParseAddr("{address}"): unable to parse IP']
    return []
