"""BGPPeer: the routers that speakers open BGP sessions to. Two versions: v1beta2 is stored, v1beta1 is still served.

The structs are the single source of the CRD (config.crd), of decoding (config.check) and of the reference page.
config.convert turns objects of one version into the other.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from config.kinds.meta import Labels, LabelSelector, ObjectMeta

ASN_MAX = 4294967295
PORT_MAX = 16384
DEFAULT_PORT = 179
INT64 = {"format": "int64"}
CONNECT_TIME_RULES = {
    "x-kubernetes-validations": [
        {
            "rule": "duration(self).getSeconds() >= 1 && duration(self).getSeconds() <= 65535",
            "message": "connect time should be between 1 seconds to 65535",
        },
        {
            "rule": "duration(self).getMilliseconds() % 1000 == 0",
            "message": "connect time should contain a whole number of seconds",
        },
    ]
}
GRACEFUL_RESTART_RULES = {
    "x-kubernetes-validations": [
        {"rule": "self == oldSelf", "message": "EnableGracefulRestart cannot be changed after creation"}
    ]
}


ShownAsn = Annotated[int, Meta(ge=1, le=ASN_MAX, extra_json_schema=INT64)]
LegacyPort = Annotated[int, Meta(ge=0, le=PORT_MAX)]


class SecretReference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Names a Secret. Unknown names are an error once the peer is used."""

    name: Annotated[str, Meta(description="The name of the Secret.")] = ""
    namespace: Annotated[str, Meta(description="Not read: the Secret is looked up in the namespace of the peer.")] = ""


class BGPPeerSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """The session: who we are, who the router is, and how to talk to it."""

    my_asn: Annotated[
        int, Meta(ge=0, le=ASN_MAX, description="The autonomous system number of our side.", extra_json_schema=INT64)
    ] = msgspec.field(name="myASN")
    peer_asn: Annotated[
        int,
        Meta(
            ge=0,
            le=ASN_MAX,
            description="The autonomous system number of the router. Exactly one of peerASN and dynamicASN is needed.",
            extra_json_schema=INT64,
        ),
    ] = msgspec.field(default=0, name="peerASN")
    dynamic_asn: Annotated[
        Literal["internal", "external"] | None,
        Meta(
            description="Accept whatever number the router has: internal, the same as ours; external, any other. Not in native mode."
        ),
    ] = msgspec.field(default=None, name="dynamicASN")
    peer_address: Annotated[
        str, Meta(description="The IP address to connect to. Exactly one of peerAddress and interface is needed.")
    ] = ""
    interface: Annotated[
        str, Meta(description="The interface behind which the router is (unnumbered peering). Not in native mode.")
    ] = ""
    source_address: Annotated[str, Meta(description="The local IP address to connect from. Absent: as the kernel chooses.")] = (
        ""
    )
    peer_port: Annotated[int, Meta(ge=1, le=PORT_MAX, description="The TCP port of the router.")] = DEFAULT_PORT
    hold_time: Annotated[
        str | None,
        Meta(
            description="How long to wait for a sign of life before the session counts as lost, such as 90s: 0s (never) or at least "
            "3s. Absent: three times keepaliveTime, or the default of the BGP implementation."
        ),
    ] = None
    keepalive_time: Annotated[
        str | None,
        Meta(
            description="How often to give a sign of life, at most holdTime. Absent: a third of holdTime. Not in native mode."
        ),
    ] = None
    connect_time: Annotated[
        str | None,
        Meta(
            description="How long to wait between two attempts to connect, in whole seconds from 1s to 65535s. Not in native mode.",
            extra_json_schema=CONNECT_TIME_RULES,
        ),
    ] = None
    router_id: Annotated[str, Meta(description="Our router ID, an IPv4 address. Absent: derived from the node's address.")] = (
        msgspec.field(default="", name="routerID")
    )
    node_selectors: Annotated[
        tuple[LabelSelector, ...],
        Meta(description="Nodes that open this session, by label; one matching selector is enough. Absent: all nodes."),
    ] = ()
    password: Annotated[
        str, Meta(description="Password of the session (TCP MD5). Better kept in a Secret: passwordSecret.")
    ] = ""
    password_secret: Annotated[
        SecretReference | None,
        Meta(
            description="The Secret of type kubernetes.io/basic-auth in the namespace of the peer whose key `password` has the "
            "password. Excludes password."
        ),
    ] = None
    bfd_profile: Annotated[
        str, Meta(description="The BFDProfile to watch the session with. Absent: no BFD. Not in native mode.")
    ] = ""
    enable_graceful_restart: Annotated[
        bool | None,
        Meta(
            description="Keep routes over a restart of the speaker (RFC 4724). Cannot be changed later. Not in native mode.",
            extra_json_schema=GRACEFUL_RESTART_RULES,
        ),
    ] = None
    ebgp_multi_hop: Annotated[
        bool | None, Meta(description="The router is more than one hop away. Only for external peers.")
    ] = msgspec.field(default=None, name="ebgpMultiHop")
    vrf: Annotated[str, Meta(description="The VRF to open the session in. Not in native mode.")] = ""
    dual_stack_address_family: Annotated[
        bool, Meta(description="Announce IPv4 and IPv6 on this one session. Not in native mode.")
    ] = False
    disable_mp: Annotated[
        bool, Meta(description="Deprecated and without effect: a session carries the family of its address only.")
    ] = msgspec.field(default=False, name="disableMP")
    local_asn: Annotated[
        ShownAsn | None,
        Meta(
            description="The number to show to this router in place of myASN (local-as, no-prepend, replace-as). Not in native mode."
        ),
    ] = msgspec.field(default=None, name="localASN")


class BGPPeerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Always empty."""


class BGPPeer(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A router that speakers announce addresses to by BGP."""

    api_version: str = "metallb.io/v1beta2"
    kind: str = "BGPPeer"
    metadata: ObjectMeta = ObjectMeta()
    spec: BGPPeerSpec
    status: BGPPeerStatus | None = None


class LegacyRequirement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One expression over a label; all expressions of a selector must hold."""

    key: Annotated[str, Meta(description="The label the expression is about.")]
    operator: Annotated[str, Meta(description="In, NotIn, Exists or DoesNotExist.")]
    values: Annotated[tuple[str, ...], Meta(min_length=1, description="The values for In and NotIn.")]


class LegacyNodeSelector(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True
):
    """A label query; an empty selector matches every node."""

    match_labels: Annotated[Labels, Meta(description="Labels the node must have, with these values.")] = {}
    match_expressions: Annotated[tuple[LegacyRequirement, ...], Meta(description="Expressions that must all hold.")] = ()


class BGPPeerV1Beta1Spec(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True
):
    """The session, in the words of the deprecated version."""

    my_asn: Annotated[
        int, Meta(ge=0, le=ASN_MAX, description="The autonomous system number of our side.", extra_json_schema=INT64)
    ] = msgspec.field(name="myASN")
    peer_asn: Annotated[
        int, Meta(ge=0, le=ASN_MAX, description="The autonomous system number of the router.", extra_json_schema=INT64)
    ] = msgspec.field(name="peerASN")
    peer_address: Annotated[str, Meta(description="The IP address to connect to.")]
    source_address: Annotated[str, Meta(description="The local IP address to connect from. Absent: as the kernel chooses.")] = (
        ""
    )
    peer_port: Annotated[LegacyPort | None, Meta(description="The TCP port of the router. Absent or 0: 179.")] = None
    hold_time: Annotated[
        str | None, Meta(description="How long to wait for a sign of life. Absent: 0s, which turns the timers off.")
    ] = None
    keepalive_time: Annotated[
        str | None, Meta(description="How often to give a sign of life. Absent: 0s, which turns the timers off.")
    ] = None
    router_id: Annotated[str, Meta(description="Our router ID, an IPv4 address. Absent: derived from the node's address.")] = (
        msgspec.field(default="", name="routerID")
    )
    node_selectors: Annotated[
        tuple[LegacyNodeSelector, ...],
        Meta(description="Nodes that open this session, by label; one matching selector is enough. Absent: all nodes."),
    ] = ()
    password: Annotated[str, Meta(description="Password of the session (TCP MD5).")] = ""
    bfd_profile: Annotated[str, Meta(description="The BFDProfile to watch the session with. Absent: no BFD.")] = ""
    ebgp_multi_hop: Annotated[
        bool | None, Meta(description="The router is more than one hop away. Only for external peers.")
    ] = msgspec.field(default=None, name="ebgpMultiHop")


class BGPPeerV1Beta1(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A router that speakers announce addresses to by BGP, in the deprecated version of the API."""

    api_version: str = "metallb.io/v1beta1"
    kind: str = "BGPPeer"
    metadata: ObjectMeta = ObjectMeta()
    spec: BGPPeerV1Beta1Spec
    status: BGPPeerStatus | None = None
