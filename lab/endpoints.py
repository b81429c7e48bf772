"""Decide which Pods a Service reaches: the lab's EndpointSlice controller, pure functions that lab.manager carries out.

Level-triggered: asked twice about the same objects, the same is answered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from kube.objects import EndpointSlice, Service, ServicePort
from lab.kinds import Pod
from lab.workloads import is_going, is_ready, reference

SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
MANAGED_BY_LABEL: Final = "endpointslice.kubernetes.io/managed-by"
MANAGED_BY: Final = "endpointslice-controller.k8s.io"


def slices_of(service: Service, pods: Iterable[Pod]) -> list[dict[str, Any]]:
    """The EndpointSlices a Service should have: for each of its families one for every set of port numbers its Pods resolve to."""
    selector = service.spec.selector
    if not selector or service.spec.type == "ExternalName":
        return []
    everybody = sorted(pods, key=lambda pod: pod.key)
    return [body for family in service.spec.ip_families or ("IPv4",) for body in _slices_of_family(service, everybody, family)]


def _slices_of_family(service: Service, pods: Iterable[Pod], family: str) -> list[dict[str, Any]]:
    selector = service.spec.selector or {}
    groups: dict[tuple[tuple[str, str, int], ...], list[dict[str, Any]]] = {}
    for pod in pods:
        address = _address(pod, family)
        if pod.metadata.namespace != service.metadata.namespace or not address or pod.status.phase != "Running":
            continue
        if not all((pod.metadata.labels or {}).get(key) == value for key, value in selector.items()):
            continue
        resolved = ((port, _target_port(port, pod)) for port in service.spec.ports or ())
        ports = tuple((port.name, port.protocol, number) for port, number in resolved if number is not None)
        groups.setdefault(ports, []).append(_endpoint(pod, address, publish=service.spec.publish_not_ready_addresses))
    if not groups:
        groups[()] = []
    base = hashlib.sha256(f"{service.metadata.uid}{'' if family == 'IPv4' else family}".encode()).hexdigest()[:5]
    return [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{service.metadata.name}-{base}{index or ''}",
                "namespace": service.metadata.namespace,
                "labels": {SERVICE_NAME_LABEL: service.metadata.name, MANAGED_BY_LABEL: MANAGED_BY},
                "ownerReferences": [reference(service, "v1", "Service")],
            },
            "addressType": family,
            "endpoints": endpoints,
            "ports": [{"name": name, "protocol": protocol, "port": number} for name, protocol, number in ports],
        }
        for index, (ports, endpoints) in enumerate(sorted(groups.items()))
    ]


def _target_port(port: ServicePort, pod: Pod) -> int | None:
    """The number behind a target port on one Pod; None when the Pod has no port of that name."""
    if isinstance(port.target_port, int):
        return port.target_port or port.port
    for container in pod.spec.containers:
        for each in container.ports or ():
            if each.name == port.target_port and each.protocol == port.protocol:
                return each.container_port
    return None


def _address(pod: Pod, family: str) -> str:
    """A Pod's address of a family, or nothing."""
    known = (pod.status.pod_ip, *(each.ip for each in pod.status.pod_ips or ()))
    return next((ip for ip in known if ip and (":" in ip) == (family == "IPv6")), "")


def _endpoint(pod: Pod, address: str, *, publish: bool) -> dict[str, Any]:
    ready = is_ready(pod)
    return {
        "addresses": [address],
        "conditions": {"ready": publish or (ready and not is_going(pod)), "serving": ready, "terminating": is_going(pod)},
        "nodeName": pod.spec.node_name,
        "targetRef": {"kind": "Pod", "namespace": pod.metadata.namespace, "name": pod.metadata.name, "uid": pod.metadata.uid},
    }


def same_endpoints(slice_: EndpointSlice, body: Mapping[str, Any]) -> bool:
    """Whether a slice already says what its body would."""
    wanted = msgspec.convert(body, EndpointSlice)
    return (slice_.endpoints or (), slice_.ports or ()) == (wanted.endpoints or (), wanted.ports or ())
