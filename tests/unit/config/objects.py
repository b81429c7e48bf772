"""Objects that users write, valid and invalid, with what must become of each: the table of test_objects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from tests.builders import NAMESPACE

SELECTOR = {"matchLabels": {"app": "web"}}
PEER = {"myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1"}
POOL = {"addresses": ["192.0.2.0/24"]}


@dataclass(frozen=True)
class Row:
    """An object of a kind, and what becomes of it.

    `refused` says by whom: the API server by its schema ("api"), our webhooks ("config"), nobody until it is used, because what
    it names may come ("later"), or nobody because the API server drops the field with a warning ("dropped").
    """

    kind: str
    spec: Any
    refused: Literal["", "api", "config", "later", "dropped"] = ""
    path: str = ""
    message: str = ""
    mode: str = "frr"
    version: str = "v1beta1"

    @property
    def title(self) -> str:
        return f"{self.kind}-{self.version}-{self.spec}"


def document(row: Row, name: str = "object") -> dict[str, Any]:
    """The object of a row as a user writes it."""
    return {
        "apiVersion": f"metallb.io/{row.version}",
        "kind": row.kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        **({} if row.spec is None else {"spec": row.spec}),
    }


def pool(spec: Any, *outcome: Any, **more: Any) -> Row:
    return Row("IPAddressPool", spec, *outcome, **more)


def l2(spec: Any, *outcome: Any) -> Row:
    return Row("L2Advertisement", spec, *outcome)


def bgp(spec: Any, *outcome: Any, **more: Any) -> Row:
    return Row("BGPAdvertisement", spec, *outcome, **more)


def peer(more: dict[str, Any], *outcome: Any, without: str = "", **rest: Any) -> Row:
    spec = {name: value for name, value in {**PEER, **more}.items() if name != without}
    return replace(Row("BGPPeer", spec, *outcome, **rest), version="v1beta2")


def old_peer(more: dict[str, Any], *outcome: Any, without: str = "") -> Row:
    spec = {name: value for name, value in {**PEER, **more}.items() if name != without}
    return Row("BGPPeer", spec, *outcome)


def bfd(spec: Any, *outcome: Any, **more: Any) -> Row:
    return Row("BFDProfile", spec, *outcome, **more)


def community(value: str, *outcome: Any, **more: Any) -> Row:
    return Row("Community", {"communities": [{"name": "alias", "value": value}]}, *outcome, **more)


SELECTORS = "spec.serviceAllocation.serviceSelectors"
ROWS = [
    # Addresses of an IPAddressPool
    pool({"addresses": ["192.0.2.0/24"]}),
    pool({"addresses": ["192.0.2.77/24"]}),
    pool({"addresses": ["192.0.2.1/32"]}),
    pool({"addresses": ["0.0.0.0/0"]}),
    pool({"addresses": ["192.0.2.1-192.0.2.1"]}),
    pool({"addresses": ["192.0.2.1 - 192.0.2.9"]}),
    pool({"addresses": [" 192.0.2.1-192.0.2.9 "]}),
    pool({"addresses": ["fc00:f853:0ccd:e799::/124"]}),
    pool({"addresses": ["2001:db8::1-2001:db8::ff"]}),
    pool({"addresses": ["192.0.2.0/24", "2001:db8::/64"]}),
    pool({"addresses": ["192.0.2.0/25", "192.0.2.128/25"]}),
    pool({"addresses": ["::/0"]}),
    pool({}, "api", "spec.addresses", "is required"),
    pool(None, "api", "spec", "is required"),
    pool({"addresses": "192.0.2.0/24"}, "api", "spec.addresses", "must be an array"),
    pool({"addresses": [1]}, "api", "spec.addresses[0]", "must be a string"),
    pool({"addresses": []}, "config", "spec.addresses", "pool has no addresses"),
    pool({"addresses": ["192.0.2.1"]}, "api", "spec.addresses[0]", "no prefix length"),
    pool({"addresses": [" 192.0.2.0/24"]}, "api", "spec.addresses[0]", "blanks around it"),
    pool({"addresses": ["192.0.2.0/33"]}, "config", "spec.addresses[0]", "bad prefix length '33'"),
    pool({"addresses": ["2001:db8::/129"]}, "config", "spec.addresses[0]", "bad prefix length '129'"),
    pool({"addresses": ["192.0.2.300-192.0.2.301"]}, "config", "spec.addresses[0]", "invalid IP '192.0.2.300'"),
    pool({"addresses": ["192.0.02.1/32"]}, "config", "spec.addresses[0]", "invalid IP '192.0.02.1'"),
    pool({"addresses": ["192.0.2.9-192.0.2.1"]}, "config", "spec.addresses[0]", "start is after end"),
    pool({"addresses": ["192.0.2.1-2001:db8::1"]}, "config", "spec.addresses[0]", "mixes IPv4 and IPv6"),
    pool({"addresses": ["::1-192.0.2.220"]}, "config", "spec.addresses[0]", "mixes IPv4 and IPv6"),
    pool({"addresses": ["nonsense"]}, "api", "spec.addresses[0]", "invalid"),
    pool({"addresses": ["192.0.2.0/24", "192.0.2.128/25"]}, "config", "spec.addresses[1]", "overlaps with already defined CIDR"),
    pool({"addresses": ["192.0.2.0/24", "192.0.2.9-192.0.2.9"]}, "config", "spec.addresses[1]", "overlaps with already defined"),
    # Other members of an IPAddressPool
    pool({**POOL, "autoAssign": False, "avoidBuggyIPs": True}),
    pool({**POOL, "autoAssign": "no"}, "api", "spec.autoAssign", "must be a boolean"),
    pool({**POOL, "avoidBuggyIPs": 1}, "api", "spec.avoidBuggyIPs", "must be a boolean"),
    pool({**POOL, "autoassign": False}, "dropped", "spec.autoassign", "unknown field 'autoassign'"),
    pool({**POOL, "serviceAllocation": {}}),
    pool({**POOL, "serviceAllocation": {"priority": 50}}),
    pool({**POOL, "serviceAllocation": {"priority": -1}}),
    pool({**POOL, "serviceAllocation": {"priority": "high"}}, "api", "spec.serviceAllocation.priority", "must be an integer"),
    pool({**POOL, "serviceAllocation": {"namespaces": ["a", "b"]}}),
    pool({**POOL, "serviceAllocation": {"namespaces": ["a", "a"]}}, "config", "spec.serviceAllocation.namespaces[1]", "duplicate namespace 'a'"),
    pool({**POOL, "serviceAllocation": {"serviceSelectors": [SELECTOR], "namespaceSelectors": [{}]}}),
    pool({**POOL, "serviceAllocation": {"serviceSelectors": [SELECTOR, SELECTOR]}}, "config", f"{SELECTORS}[1]", "duplicate selector"),
    pool({**POOL, "serviceAllocation": {"namespaceSelectors": [{}, {}]}}, "config", "spec.serviceAllocation.namespaceSelectors[1]", "duplicate selector"),
    pool({**POOL, "serviceAllocation": {"serviceSelectors": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]}}, "config", f"{SELECTORS}[0].matchExpressions[0].values", "operator In needs values"),
    pool({**POOL, "serviceAllocation": {"serviceSelectors": [{"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}]}}, "config", f"{SELECTORS}[0].matchExpressions[0].values", "operator Exists takes no values"),
    pool({**POOL, "serviceAllocation": {"serviceSelectors": [{"matchExpressions": [{"key": "a", "operator": "In", "values": ["b", "b"]}]}]}}, "config", f"{SELECTORS}[0].matchExpressions[0].values", "duplicate value"),
    pool({**POOL, "serviceAllocation": {"serviceSelectors": [{"matchExpressions": [{"key": "a", "operator": "Is"}]}]}}, "api", f"{SELECTORS}[0].matchExpressions[0].operator", "unknown value"),
    pool({**POOL, "serviceAllocation": {"serviceSelectors": [{"matchExpressions": [{"operator": "Exists"}]}]}}, "api", f"{SELECTORS}[0].matchExpressions[0].key", "is required"),
    pool({**POOL, "serviceAllocation": {"serviceSelectors": [{"matchLabels": {"a b": "c"}}]}}, "config", f"{SELECTORS}[0].matchLabels", "invalid label key 'a b'"),
    pool({**POOL, "serviceAllocation": {"serviceSelectors": [{"matchLabels": {"a": "c d"}}]}}, "config", f"{SELECTORS}[0].matchLabels[a]", "invalid label value 'c d'"),
    # L2Advertisement
    l2({}),
    l2(None),
    l2({"ipAddressPools": ["a", "b"], "interfaces": ["eth0"], "nodeSelectors": [SELECTOR], "serviceSelectors": [{}]}),
    l2({"ipAddressPools": ["a", "a"]}, "config", "spec.ipAddressPools[1]", "duplicate pool 'a'"),
    l2({"ipAddressPools": "a"}, "api", "spec.ipAddressPools", "must be an array"),
    l2({"ipAddressPoolSelectors": [{}, {}]}, "config", "spec.ipAddressPoolSelectors[1]", "duplicate selector"),
    l2({"nodeSelectors": [SELECTOR, SELECTOR]}, "config", "spec.nodeSelectors[1]", "duplicate selector"),
    l2({"serviceSelectors": [SELECTOR, SELECTOR]}, "config", "spec.serviceSelectors[1]", "duplicate selector"),
    l2({"interfaces": ["eth0", 1]}, "api", "spec.interfaces[1]", "must be a string"),
    l2({"preferredNodeSelectors": [{"weight": 1, "preference": {}}, {"weight": 100, "preference": SELECTOR}]}),
    l2({"preferredNodeSelectors": [{"weight": 0, "preference": {}}]}, "api", "spec.preferredNodeSelectors[0].weight", "0 is out of range"),
    l2({"preferredNodeSelectors": [{"weight": 101, "preference": {}}]}, "api", "spec.preferredNodeSelectors[0].weight", "101 is out of range"),
    l2({"preferredNodeSelectors": [{"weight": 5, "preference": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}]}, "api", "spec.preferredNodeSelectors[0].preference.matchExpressions[0].operator", "unknown value"),
    l2({"preferredNodeSelectors": [{"weight": 5}]}, "api", "spec.preferredNodeSelectors[0].preference", "is required"),
    l2({"preferredNodeSelectors": [{"preference": {}}]}, "api", "spec.preferredNodeSelectors[0].weight", "is required"),
    # BGPAdvertisement
    bgp({}),
    bgp(None),
    bgp({"aggregationLength": 24, "aggregationLengthV6": 64, "localPref": 100, "communities": ["65000:100", "large:65000:1:2"]}),
    bgp({"aggregationLength": 1}),
    bgp({"aggregationLength": 0}, "api", "spec.aggregationLength", "0 is out of range"),
    bgp({"aggregationLength": 33}, "config", "spec.aggregationLength", 'invalid aggregation length "33" for IPv4'),
    bgp({"aggregationLength": "24"}, "api", "spec.aggregationLength", "must be an integer"),
    bgp({"aggregationLengthV6": 0}),
    bgp({"aggregationLengthV6": 129}, "config", "spec.aggregationLengthV6", 'invalid aggregation length "129" for IPv6'),
    bgp({"aggregationLengthV6": -1}, "config", "spec.aggregationLengthV6", 'invalid aggregation length "-1" for IPv6'),
    bgp({"localPref": -1}, "config", "spec.localPref", "-1 is out of range"),
    bgp({"communities": ["1:2", "1:2"]}, "config", "spec.communities[1]", "duplicate community '1:2'"),
    bgp({"communities": ["65536:1"]}, "config", "spec.communities[0]", "invalid community value: invalid section"),
    bgp({"communities": ["1:2:3"]}, "config", "spec.communities[0]", "invalid community format: 1:2:3"),
    bgp({"communities": ["larg:1:2:3"]}, "config", "spec.communities[0]", "expected community to be of format large"),
    bgp({"communities": ["large:1:x:3"]}, "config", "spec.communities[0]", "invalid community value: invalid section"),
    bgp({"communities": ["large:1:4294967296:3"]}, "config", "spec.communities[0]", "invalid community value: invalid section"),
    bgp({"communities": ["large:1:2:3"]}, "config", "spec.communities[0]", "not supported in native BGP mode", mode="native"),
    bgp({"communities": ["unknown"]}, "later", "spec.communities[0]", "no Community object defines 'unknown'"),
    bgp({"ipAddressPools": ["a", "a"]}, "config", "spec.ipAddressPools[1]", "duplicate pool 'a'"),
    bgp({"peers": ["a", "b"], "nodeSelectors": [SELECTOR]}),
    bgp({"peers": ["a", "a"]}, "config", "spec.peers[1]", "duplicate peer 'a'"),
    bgp({"nodeSelectors": [{}, {}]}, "config", "spec.nodeSelectors[1]", "duplicate selector"),
    bgp({"ipAddressPoolSelectors": [SELECTOR, SELECTOR]}, "config", "spec.ipAddressPoolSelectors[1]", "duplicate selector"),
    bgp({"serviceSelectors": [SELECTOR]}),
    bgp({"serviceSelectors": [SELECTOR], "aggregationLength": 32, "aggregationLengthV6": 128}),
    bgp({"serviceSelectors": [], "aggregationLength": 24}),
    bgp({"serviceSelectors": [SELECTOR], "aggregationLength": 24}, "api", "spec", "serviceSelectors and aggregationLength are mutually exclusive"),
    bgp({"serviceSelectors": [SELECTOR], "aggregationLengthV6": 64}, "api", "spec", "serviceSelectors and aggregationLength are mutually exclusive"),
    bgp({"serviceSelectors": [SELECTOR, SELECTOR]}, "config", "spec.serviceSelectors[1]", "duplicate selector"),
    # BGPPeer v1beta2
    peer({}),
    peer({}, mode="native"),
    peer({"peerPort": 1790, "holdTime": "90s", "keepaliveTime": "30s", "routerID": "10.0.0.1", "sourceAddress": "10.0.0.2"}),
    peer({"peerAddress": "2001:db8::1", "vrf": "red", "dualStackAddressFamily": True, "localASN": 65000}),
    peer({"dynamicASN": "external"}, without="peerASN"),
    peer({"interface": "eth0"}, without="peerAddress"),
    peer({"connectTime": "10s", "enableGracefulRestart": True}),
    peer({"passwordSecret": {"name": "x", "namespace": "y"}}),
    peer({"holdTime": "0s", "keepaliveTime": "0s"}),
    peer({"holdTime": "3s"}),
    peer({"keepaliveTime": "1m30s"}),
    peer({"nodeSelectors": [SELECTOR, {"matchExpressions": [{"key": "rack", "operator": "In", "values": ["1", "2"]}]}]}),
    peer({"ebgpMultiHop": True}),
    peer({"disableMP": True}),
    peer({}, "api", "spec.myASN", "is required", without="myASN"),
    peer({"myASN": 0}, "config", "spec.myASN", "missing local ASN"),
    peer({"myASN": -1}, "api", "spec.myASN", "-1 is out of range"),
    peer({"myASN": 4294967295}),
    peer({"myASN": 4294967296}, "api", "spec.myASN", "4294967296 is out of range"),
    peer({"peerASN": 4294967296}, "api", "spec.peerASN", "4294967296 is out of range"),
    peer({}, "config", "spec.peerASN", "missing peer ASN", without="peerASN"),
    peer({"dynamicASN": "internal"}, "config", "spec.dynamicASN", "peerASN and dynamicASN are both set"),
    peer({"dynamicASN": "other"}, "api", "spec.dynamicASN", "unknown value", without="peerASN"),
    peer({"peerASN": 64512, "ebgpMultiHop": True}, "config", "spec.ebgpMultiHop", "a peer of our own AS"),
    peer({}, "config", "spec.peerAddress", "neither peerAddress nor interface is set", without="peerAddress"),
    peer({"interface": "eth0"}, "config", "spec.interface", "peerAddress and interface are both set"),
    peer({"peerAddress": "1.1.1.400"}, "config", "spec.peerAddress", "invalid BGPPeer address '1.1.1.400'"),
    peer({"sourceAddress": "here"}, "config", "spec.sourceAddress", "invalid BGPPeer source address"),
    peer({"routerID": "1"}, "config", "spec.routerID", "invalid BGPPeer router ID"),
    peer({"peerPort": 0}, "api", "spec.peerPort", "0 is out of range"),
    peer({"peerPort": 16384}),
    peer({"peerPort": 16385}, "api", "spec.peerPort", "16385 is out of range"),
    peer({"holdTime": "2s"}, "config", "spec.holdTime", "must be 0 or >=3s"),
    peer({"holdTime": "-3s"}, "config", "spec.holdTime", "holdTime is negative"),
    peer({"holdTime": "90"}, "config", "spec.holdTime", "invalid duration '90'"),
    peer({"holdTime": 90}, "api", "spec.holdTime", "must be a string"),
    peer({"holdTime": "9s", "keepaliveTime": "10s"}, "config", "spec.keepaliveTime", "must be lower than holdTime"),
    peer({"connectTime": "0s"}, "api", "spec.connectTime", "not a whole number of seconds"),
    peer({"connectTime": "1500ms"}, "api", "spec.connectTime", "not a whole number of seconds"),
    peer({"connectTime": "65536s"}, "api", "spec.connectTime", "not a whole number of seconds"),
    peer({"connectTime": "soon"}, "api", "spec.connectTime", "invalid duration 'soon'"),
    peer({"localASN": 0}, "api", "spec.localASN", "0 is out of range"),
    peer({"password": "x", "passwordSecret": {"name": "y"}}, "config", "spec.passwordSecret", "password and passwordSecret are both set"),
    peer({"nodeSelectors": [SELECTOR, SELECTOR]}, "config", "spec.nodeSelectors[1]", "duplicate selector"),
    peer({"nodeSelectors": [{"matchExpressions": [{"key": "a", "operator": "Near"}]}]}, "api", "spec.nodeSelectors[0].matchExpressions[0].operator", "unknown value"),
    peer({"bfdProfile": "none"}, "later", "spec.bfdProfile", "peer object referencing non existing bfd profile none"),
    peer({"vrf": "red"}, "config", "spec.vrf", "vrf is not supported in native BGP mode", mode="native"),
    peer({"keepaliveTime": "1s"}, "config", "spec.keepaliveTime", "keepaliveTime is not supported", mode="native"),
    peer({"keepaliveTime": "0s"}, mode="native"),
    peer({"connectTime": "10s"}, "config", "spec.connectTime", "connectTime is not supported", mode="native"),
    peer({"enableGracefulRestart": True}, "config", "spec.enableGracefulRestart", "is not supported", mode="native"),
    peer({"disableMP": True}, "config", "spec.disableMP", "disableMP is not supported", mode="native"),
    peer({"dualStackAddressFamily": True}, "config", "spec.dualStackAddressFamily", "is not supported", mode="native"),
    peer({"dynamicASN": "internal"}, "config", "spec.dynamicASN", "is not supported", mode="native", without="peerASN"),
    peer({"interface": "eth0"}, "config", "spec.interface", "is not supported", mode="native", without="peerAddress"),
    peer({"localASN": 5}, "config", "spec.localASN", "is not supported", mode="native"),
    peer({"ebgpMultiHop": True, "password": "x", "sourceAddress": "10.0.0.2", "routerID": "1.2.3.4", "holdTime": "9s"}, mode="native"),
    # BGPPeer v1beta1
    old_peer({}),
    old_peer({"peerPort": 0, "nodeSelectors": [{}]}),
    old_peer({"holdTime": "90s", "keepaliveTime": "30s"}),
    old_peer({"nodeSelectors": [{"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}]}),
    old_peer({}, "api", "spec.peerAddress", "is required", without="peerAddress"),
    old_peer({}, "api", "spec.peerASN", "is required", without="peerASN"),
    old_peer({"nodeSelectors": [{"matchExpressions": [{"key": "a", "operator": "In", "values": []}]}]}, "api", "spec.nodeSelectors[0].matchExpressions[0].values", "needs at least 1 entry"),
    old_peer({"nodeSelectors": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}, "api", "spec.nodeSelectors[0].matchExpressions[0].values", "is required"),
    old_peer({"peerAddress": "x"}, "config", "spec.peerAddress", "invalid BGPPeer address 'x'"),
    old_peer({"vrf": "red"}, "dropped", "spec.vrf", "unknown field 'vrf'"),
    # BFDProfile
    bfd({}),
    bfd(None),
    bfd({"receiveInterval": 10, "transmitInterval": 60000, "detectMultiplier": 2, "echoInterval": 50, "minimumTtl": 254}),
    bfd({"echoMode": True, "passiveMode": False}),
    bfd({}, "later", "spec", "BFD profiles are not supported in native BGP mode", mode="native"),
    *(
        bfd({name: value}, "api", f"spec.{name}", f"{value} is out of range")
        for name, values in {
            "receiveInterval": (2, 9, 90000), "transmitInterval": (9, 60001), "detectMultiplier": (1, 256),
            "echoInterval": (9, 60001), "minimumTtl": (0, 255),
        }.items()
        for value in values
    ),
    bfd({"echoMode": "yes"}, "api", "spec.echoMode", "must be a boolean"),
    # Community
    community("0:0"),
    community("65535:65535"),
    community("large:0:0:4294967295"),
    community("12345", "config", "spec.communities[0].value", "invalid community format: 12345"),
    community("12345:12345:12345", "config", "spec.communities[0].value", "invalid community format"),
    community("65536:1", "config", "spec.communities[0].value", "invalid community value: invalid section"),
    community("1:-1", "config", "spec.communities[0].value", "invalid community value: invalid section"),
    community("larg:12345:12345:12345", "config", "spec.communities[0].value", "expected community to be of format large"),
    community("large:12345:wrong:12345", "config", "spec.communities[0].value", "invalid community value: invalid section"),
    community("", "config", "spec.communities[0].value", "invalid community format"),
    community("large:1:2:3", "config", "spec.communities[0].value", "not supported in native BGP mode", mode="native"),
    Row("Community", None),
    Row("Community", {"communities": [{"value": "1:1"}]}, "config", "spec.communities[0].name", "has no name"),
    Row("Community", {"communities": [{"name": "a", "value": "1:1"}, {"name": "a", "value": "1:2"}]}, "config", "spec.communities[1].name", 'duplicate definition of community "a"'),
    Row("Community", {"communities": {"a": "1:1"}}, "api", "spec.communities", "must be an array"),
]  # fmt: skip
