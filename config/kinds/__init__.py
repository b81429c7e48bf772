"""One module per custom resource kind; KINDS is the registry that generators and informers iterate."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import msgspec

from config.kinds.bfd_profile import BFDProfile
from config.kinds.bgp_advertisement import BGPAdvertisement
from config.kinds.bgp_peer import BGPPeer, BGPPeerV1Beta1
from config.kinds.community import Community
from config.kinds.configuration_state import ConfigurationState
from config.kinds.ip_address_pool import IPAddressPool
from config.kinds.l2_advertisement import L2Advertisement
from config.kinds.service_bgp_status import ServiceBGPStatus
from config.kinds.service_l2_status import ServiceL2Status

GROUP: Final = "metallb.io"

Configured = IPAddressPool | L2Advertisement | BGPAdvertisement | BGPPeer | BFDProfile | Community
"""The kinds that users write, decoded; of BGPPeer the stored version."""


@dataclass(frozen=True, slots=True)
class PrinterColumn:
    """A column of `kubectl get`. Priority 0 is always shown, higher ones only with -o wide."""

    name: str
    json_path: str
    type: str = "string"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a kind as the API serves it. `deprecation` is the warning that its users get."""

    name: str
    struct: type[msgspec.Struct]
    columns: tuple[PrinterColumn, ...] = ()
    storage: bool = True
    deprecation: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """A custom resource: how the API names it, and the structs that define it."""

    name: str
    plural: str
    versions: tuple[Version, ...]

    @property
    def storage(self) -> Version:
        """The version that objects are stored in."""
        return next(version for version in self.versions if version.storage)

    @property
    def singular(self) -> str:
        """The name of one object in the words of kubectl."""
        return self.name.lower()


_PEER_COLUMNS = (
    PrinterColumn("Address", ".spec.peerAddress"),
    PrinterColumn("ASN", ".spec.peerASN"),
    PrinterColumn("BFD Profile", ".spec.bfdProfile"),
    PrinterColumn("Multi Hops", ".spec.ebgpMultiHop"),
)

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
        "BGPAdvertisement",
        "bgpadvertisements",
        (
            Version(
                "v1beta1",
                BGPAdvertisement,
                (
                    PrinterColumn("IPAddressPools", ".spec.ipAddressPools"),
                    PrinterColumn("IPAddressPool Selectors", ".spec.ipAddressPoolSelectors"),
                    PrinterColumn("Peers", ".spec.peers"),
                    PrinterColumn("Node Selectors", ".spec.nodeSelectors", priority=10),
                ),
            ),
        ),
    ),
    Kind(
        "BGPPeer",
        "bgppeers",
        (
            Version(
                "v1beta1",
                BGPPeerV1Beta1,
                _PEER_COLUMNS,
                storage=False,
                deprecation="v1beta1 is deprecated, please use v1beta2",
            ),
            Version("v1beta2", BGPPeer, _PEER_COLUMNS),
        ),
    ),
    Kind(
        "BFDProfile",
        "bfdprofiles",
        (
            Version(
                "v1beta1",
                BFDProfile,
                (
                    PrinterColumn("Passive Mode", ".spec.passiveMode", "boolean"),
                    PrinterColumn("Transmit Interval", ".spec.transmitInterval", "integer"),
                    PrinterColumn("Receive Interval", ".spec.receiveInterval", "integer"),
                    PrinterColumn("Multiplier", ".spec.detectMultiplier", "integer"),
                ),
            ),
        ),
    ),
    Kind("Community", "communities", (Version("v1beta1", Community),)),
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
    Kind(
        "ServiceBGPStatus",
        "servicebgpstatuses",
        (
            Version(
                "v1beta1",
                ServiceBGPStatus,
                (
                    PrinterColumn("Node", ".status.node"),
                    PrinterColumn("Service Name", ".status.serviceName"),
                    PrinterColumn("Service Namespace", ".status.serviceNamespace"),
                ),
            ),
        ),
    ),
    Kind(
        "ConfigurationState",
        "configurationstates",
        (
            Version(
                "v1beta1",
                ConfigurationState,
                (
                    PrinterColumn("Result", ".status.result"),
                    PrinterColumn("ErrorSummary", ".status.errorSummary"),
                    PrinterColumn("Age", ".metadata.creationTimestamp", "date"),
                ),
            ),
        ),
    ),
)

KINDS: Final = MappingProxyType({kind.name: kind for kind in _KINDS})
"""Every custom resource kind, by name."""
