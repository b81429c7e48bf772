"""One module per custom resource kind; KINDS is the registry that generators and informers iterate."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import msgspec

from config.kinds.ip_address_pool import IPAddressPool
from config.kinds.l2_advertisement import L2Advertisement
from config.kinds.service_l2_status import ServiceL2Status

GROUP: Final = "metallb.io"

Configured = IPAddressPool | L2Advertisement
"""The kinds that users write, decoded."""


@dataclass(frozen=True, slots=True)
class PrinterColumn:
    """A column of `kubectl get`. Priority 0 is always shown, higher ones only with -o wide."""

    name: str
    json_path: str
    type: str = "string"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a kind as the API serves it."""

    name: str
    struct: type[msgspec.Struct]
    columns: tuple[PrinterColumn, ...] = ()
    storage: bool = True


@dataclass(frozen=True, slots=True)
class Kind:
    """A custom resource: how the API names it, and the structs that define it."""

    name: str
    plural: str
    versions: tuple[Version, ...]

    @property
    def singular(self) -> str:
        """The name of one object in the words of kubectl."""
        return self.name.lower()


_KINDS = (
    Kind(
        "IPAddressPool",
        "ipaddresspools",
        (
            Version(
                "v1beta1",
                IPAddressPool,
                (
                    PrinterColumn("Auto Assign", ".spec.autoAssign", "boolean"),
                    PrinterColumn("Avoid Buggy IPs", ".spec.avoidBuggyIPs", "boolean"),
                    PrinterColumn("Addresses", ".spec.addresses"),
                ),
            ),
        ),
    ),
    Kind(
        "L2Advertisement",
        "l2advertisements",
        (
            Version(
                "v1beta1",
                L2Advertisement,
                (
                    PrinterColumn("IPAddressPools", ".spec.ipAddressPools"),
                    PrinterColumn("IPAddressPool Selectors", ".spec.ipAddressPoolSelectors"),
                    PrinterColumn("Interfaces", ".spec.interfaces"),
                    PrinterColumn("Node Selectors", ".spec.nodeSelectors", priority=10),
                ),
            ),
        ),
    ),
    Kind(
        "ServiceL2Status",
        "servicel2statuses",
        (
            Version(
                "v1beta1",
                ServiceL2Status,
                (
                    PrinterColumn("Allocated Node", ".status.node"),
                    PrinterColumn("Service Name", ".status.serviceName"),
                    PrinterColumn("Service Namespace", ".status.serviceNamespace"),
                ),
            ),
        ),
    ),
)

KINDS: Final = MappingProxyType({kind.name: kind for kind in _KINDS})
"""Every custom resource kind, by name."""
