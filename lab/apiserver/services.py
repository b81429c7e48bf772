"""Services: defaults, families, cluster addresses, node ports, and what a Service may say.

The allocator is derived state: the addresses and ports that stored Services hold, kept by watching the store's changes, so
a restart needs no second copy. Called by kinds.py through the hooks of the Service row. Order and texts of the faults are
those of the recorded answers of a kube-apiserver.
"""

from __future__ import annotations

import ipaddress
import random
from collections import Counter
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

Json = dict[str, Any]

RANGES = {"IPv4": ipaddress.ip_network("10.96.0.0/16"), "IPv6": ipaddress.ip_network("fd00:10:96::/112")}
NODE_PORTS = range(30000, 32768)
API_SERVICE_ADDRESS = "10.96.0.1"
_IP_DETAIL = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_POLICIES = ("PreferDualStack", "RequireDualStack", "SingleStack")


class Allocator:
    """Which cluster addresses and node ports are held. Changes only through hold() and release()."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._addresses: Counter[str] = Counter()  # Counted: the old and the new version of a Service overlap.
        self._ports: Counter[tuple[int, str]] = Counter()

    def hold(self, service: Json) -> None:
        """Count what a stored Service holds."""
        self._addresses.update(addresses_of(service))
        self._ports.update(ports_of(service))

    def release(self, service: Json) -> None:
        """Forget what a Service held."""
        self._addresses -= Counter(addresses_of(service))
        self._ports -= Counter(ports_of(service))

    def address_taken(self, address: str) -> bool:
        """Whether a Service holds the address."""
        return address in self._addresses

    def port_taken(self, port: int, protocol: str) -> bool:
        """Whether a Service holds the node port for this protocol."""
        return (port, protocol) in self._ports

    def free_address(self, family: str) -> str:
        """A free address of the upper part of the range, as the server picks."""
        network = RANGES[family]
        first, last = int(network.network_address) + 256, int(network.broadcast_address) - 1
        kind = ipaddress.IPv4Address if family == "IPv4" else ipaddress.IPv6Address
        while True:
            address = str(kind(self._rng.randint(first, last)))
            if address not in self._addresses:
                return address

    def free_port(self, protocols: Iterable[str], beside: set[int]) -> int:
        """A node port that is free for all the protocols and not in `beside`.

        Raises:
            ApiError: 500 when there is none.

        """
        wanted = {*protocols, "TCP"}

        def free(port: int) -> bool:
            return port not in beside and not any((port, p) in self._ports for p in wanted)

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
    spec.setdefault("sessionAffinity", "None")
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {}).setdefault("timeoutSeconds", 10800)
    for port in spec.get("ports") or []:
        port.setdefault("protocol", "TCP")
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


def prepare_update(new: Json, old: Json) -> None:
    """Carry over what the server once chose, and drop what a change of type takes away. Before default()."""
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
            out.append(invalid_value(f"spec.clusterIPs[{at}]", address, _IP_DETAIL))
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


def port_number_faults(field: str, number: Any) -> list[Cause]:
    """Faults of a port number."""
    if isinstance(number, int) and 1 <= number <= 65535:
        return []
    return [invalid_value(field, number, "must be between 1 and 65535, inclusive")]


def port_name_faults(field: str, name: str) -> list[Cause]:
    """Faults of a named target port (IANA service name)."""
    out = []
    if len(name) > 15:
        out.append("must be no more than 15 characters")
    if not all(c.isascii() and (c.islower() or c.isdigit() or c == "-") for c in name):
        out.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not any(c.isascii() and c.islower() for c in name):
        out.append("must contain at least one letter (a-z)")
    if "--" in name:
        out.append("must not contain consecutive hyphens")
    if name.startswith("-") or name.endswith("-"):
        out.append("must not begin or end with a hyphen")
    return [invalid_value(field, name, f) for f in out]


def _validate_ports(spec: Json) -> list[Cause]:
    out: list[Cause] = []
    ports = spec.get("ports") or []
    names: set[str] = set()
    for at, port in enumerate(ports):
        field = f"spec.ports[{at}]"
        name = port.get("name", "")
        if len(ports) > 1 and not name:
            out.append(required(f"{field}.name"))
        elif name:
            out += [invalid_value(f"{field}.name", name, f) for f in label_faults(name)]
            if name in names:
                out.append(duplicate(f"{field}.name", name))
            names.add(name)
        out += port_number_faults(f"{field}.port", port["port"])
        if port["protocol"] not in {"TCP", "UDP", "SCTP"}:
            out.append(unsupported(f"{field}.protocol", port["protocol"], ("SCTP", "TCP", "UDP")))
        target = port["targetPort"]
        out += (
            port_name_faults(f"{field}.targetPort", target)
            if isinstance(target, str)
            else port_number_faults(f"{field}.targetPort", target)
        )
        if port.get("appProtocol") is not None:
            out += [
                invalid_value(f"{field}.appProtocol", port["appProtocol"], f) for f in qualified_faults(port["appProtocol"])
            ]
    return out


def validate(service: Json, old: Json | None) -> list[Cause]:
    """Faults of a Service, in the server's order."""
    spec = service["spec"]
    kind = spec.get("type")
    addresses = spec.get("clusterIPs") or []
    headless = bool(addresses) and addresses[0] == "None"
    out: list[Cause] = []
    if not spec.get("ports") and not headless and kind != "ExternalName":
        out.append(required("spec.ports"))
    if headless and kind in {"LoadBalancer", "NodePort"}:
        out.append(invalid_value("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services"))
    if kind == "ExternalName":
        if addresses:
            out.append(forbidden("spec.clusterIPs", "may not be set when `type` is 'ExternalName'"))
        name = spec.get("externalName", "").removesuffix(".")
        if name:
            out += [invalid_value("spec.externalName", name, f) for f in subdomain_faults(name)]
        else:
            out.append(required("spec.externalName"))
    out += _validate_ports(spec)
    out += label_causes(spec.get("selector") or {}, "spec.selector")
    if spec["sessionAffinity"] not in {"ClientIP", "None"}:
        out.append(unsupported("spec.sessionAffinity", spec["sessionAffinity"], ("ClientIP", "None")))
    elif spec["sessionAffinity"] == "ClientIP":
        seconds = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"]
        if not 0 < seconds <= 86400:
            field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
            out.append(invalid_value(field, seconds, "must be greater than 0 and less than 86400"))
    for at, address in enumerate(spec.get("externalIPs") or []):
        out += _external_ip_faults(f"spec.externalIPs[{at}]", address)
    if kind not in _TYPES:
        out.append(unsupported("spec.type", kind, _TYPES))
    seen = set()
    for at, port in enumerate(spec.get("ports") or []):
        key = (port["protocol"], port["port"])
        if key in seen:
            shown = (
                f'core.ServicePort{{Name:"", Protocol:"{port["protocol"]}", AppProtocol:(*string)(nil), Port:{port["port"]}, '
                'TargetPort:intstr.IntOrString{Type:0, IntVal:0, StrVal:""}, NodePort:0}'
            )
            out.append(raw_duplicate(f"spec.ports[{at}]", shown))
        seen.add(key)
        if kind == "ClusterIP" and port.get("nodePort"):
            out.append(forbidden(f"spec.ports[{at}].nodePort", "may not be used when `type` is 'ClusterIP'"))
    out += _validate_balancer(spec, kind)
    if spec.get("internalTrafficPolicy") not in {None, "Cluster", "Local"}:
        out.append(unsupported("spec.internalTrafficPolicy", spec["internalTrafficPolicy"], ("Cluster", "Local")))
    if spec.get("trafficDistribution") not in {None, "PreferClose"}:
        out.append(unsupported("spec.trafficDistribution", spec["trafficDistribution"], ("PreferClose",)))
    out += _validate_external_policy(spec)
    if old is not None:
        out += _validate_update(spec, old["spec"])
    return out + validate_status(service)


def _external_ip_faults(field: str, address: str) -> list[Cause]:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return [invalid_value(field, address, _IP_DETAIL)]
    rules = (
        (parsed.is_unspecified, f"may not be unspecified ({parsed})"),
        (parsed.is_loopback, "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (parsed.is_link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
    )
    return [invalid_value(field, address, detail) for broken, detail in rules if broken]


def _validate_balancer(spec: Json, kind: Any) -> list[Cause]:
    out: list[Cause] = []
    only = "may only be used when `type` is 'LoadBalancer'"
    if spec.get("loadBalancerSourceRanges"):
        if kind != "LoadBalancer":
            out.append(forbidden("spec.LoadBalancerSourceRanges", only))
        for at, text in enumerate(spec["loadBalancerSourceRanges"]):
            try:
                ipaddress.ip_network(text.strip(), strict=False)
            except ValueError:
                detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
                out.append(invalid_value(f"spec.LoadBalancerSourceRanges[{at}]", text, detail))
    if spec.get("allocateLoadBalancerNodePorts") is not None and kind != "LoadBalancer":
        out.append(forbidden("spec.allocateLoadBalancerNodePorts", only))
    name = spec.get("loadBalancerClass")
    if name is not None:
        if kind != "LoadBalancer":
            out.append(forbidden("spec.loadBalancerClass", only))
        else:
            out += [invalid_value("spec.loadBalancerClass", name, f) for f in qualified_faults(name)]
    return out


def _validate_external_policy(spec: Json) -> list[Cause]:
    out = []
    policy = spec.get("externalTrafficPolicy")
    if policy and not _external(spec):
        out.append(invalid_value("spec.externalTrafficPolicy", policy, "may only be set for externally-accessible services"))
    elif policy not in {None, "Cluster", "Local"}:
        out.append(unsupported("spec.externalTrafficPolicy", policy, ("Cluster", "Local")))
    number = spec.get("healthCheckNodePort")
    if number and not _needs_health_port(spec):
        detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        out.append(invalid_value("spec.healthCheckNodePort", number, detail))
    return out


def _validate_update(spec: Json, was: Json) -> list[Cause]:
    out: list[Cause] = []
    new, old = spec.get("clusterIPs") or [], was.get("clusterIPs") or []
    if new and old and new[0] != old[0] and "ExternalName" not in {spec["type"], was["type"]}:
        shown = "[]string{" + ", ".join(f'"{a}"' for a in new) + "}"
        out.append(raw_invalid("spec.clusterIPs[0]", shown, "may not change once set"))
    if spec["type"] == was["type"] == "LoadBalancer" and spec.get("loadBalancerClass") != was.get("loadBalancerClass"):
        out.append(invalid_value("spec.loadBalancerClass", spec.get("loadBalancerClass"), "may not change once set"))
    if (
        _needs_health_port(spec)
        and _needs_health_port(was)
        and spec.get("healthCheckNodePort") != was.get("healthCheckNodePort")
    ):
        out.append(forbidden("spec.healthCheckNodePort", "field is immutable"))
    return out


def validate_status(service: Json) -> list[Cause]:
    """Faults of status.loadBalancer."""
    out: list[Cause] = []
    ingress = service["status"]["loadBalancer"].get("ingress") or []
    if ingress and service["spec"].get("type") != "LoadBalancer":
        return [forbidden("status.loadBalancer.ingress", "may only be used when `spec.type` is 'LoadBalancer'")]
    for at, entry in enumerate(ingress):
        field = f"status.loadBalancer.ingress[{at}]"
        if entry.get("ip") and _family(entry["ip"]) is None:
            out.append(invalid_value(f"{field}.ip", entry["ip"], _IP_DETAIL))
        mode = entry.get("ipMode")
        if entry.get("ip") and mode is None:
            out.append(required(f"{field}.ipMode", "must be specified when `ip` is set"))
        elif not entry.get("ip") and mode is not None:
            out.append(forbidden(f"{field}.ipMode", "may not be specified when `ip` is not set"))
        elif mode is not None and mode not in {"VIP", "Proxy"}:
            out.append(unsupported(f"{field}.ipMode", mode, ("Proxy", "VIP")))
        if entry.get("hostname"):
            out += [invalid_value(f"{field}.hostname", entry["hostname"], f) for f in subdomain_faults(entry["hostname"])]
            if _family(entry["hostname"]):
                out.append(invalid_value(f"{field}.hostname", entry["hostname"], "must be a DNS name, not an IP address"))
    return out


def warnings(service: Json) -> list[str]:
    """What the server accepts and warns of."""
    address = service["spec"].get("loadBalancerIP")
    if service["spec"].get("type") == "LoadBalancer" and address and _family(address) is None:
        return [
            (
                "spec.loadBalancerIP: IP address was accepted, but will be invalid in a future Kubernetes release: "
                f'ParseAddr("{address}"): unable to parse IP'
            )
        ]
    return []
