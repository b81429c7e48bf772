"""ServiceBGPStatus: to which peers a node announces a Service, written by the speaker of the node.

One object per Service and node in our namespace. Only reported, never read by a decision.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from config.kinds.meta import ObjectMeta
from config.kinds.service_l2_status import IMMUTABLE


class ServiceBGPStatusSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Always empty."""


class ServiceBGPStatusStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Who announces what, and to whom."""

    node: Annotated[str, Meta(description="The node that announces the Service.", extra_json_schema=IMMUTABLE)] = ""
    service_name: Annotated[str, Meta(description="The name of the Service.", extra_json_schema=IMMUTABLE)] = ""
    service_namespace: Annotated[str, Meta(description="The namespace of the Service.", extra_json_schema=IMMUTABLE)] = ""
    peers: Annotated[tuple[str, ...], Meta(description="The BGPPeers that the Service is to be announced to, by name.")] = ()


class ServiceBGPStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Shows to which BGPPeers a node announces a Service."""

    api_version: str = "metallb.io/v1beta1"
    kind: str = "ServiceBGPStatus"
    metadata: ObjectMeta = ObjectMeta()
    spec: ServiceBGPStatusSpec = ServiceBGPStatusSpec()
    status: ServiceBGPStatusStatus = ServiceBGPStatusStatus()
