"""ServiceL2Status: which node announces a Service, written by the speaker that does.

One object per announced Service in our namespace. Only reported, never read by a decision.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from config.kinds.meta import ObjectMeta

IMMUTABLE = {"x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "Value is immutable"}]}

LABEL_NODE = "metallb.io/node"
LABEL_SERVICE_NAME = "metallb.io/service-name"
LABEL_SERVICE_NAMESPACE = "metallb.io/service-namespace"


class InterfaceInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An interface of the announcing node."""

    name: Annotated[str, Meta(description="The name of the interface.")] = ""


class ServiceL2StatusSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Always empty."""


class ServiceL2StatusStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Who announces what, and where."""

    node: Annotated[str, Meta(description="The node that announces the Service.", extra_json_schema=IMMUTABLE)] = ""
    service_name: Annotated[str, Meta(description="The name of the Service.", extra_json_schema=IMMUTABLE)] = ""
    service_namespace: Annotated[str, Meta(description="The namespace of the Service.", extra_json_schema=IMMUTABLE)] = ""
    interfaces: Annotated[tuple[InterfaceInfo, ...], Meta(description="The interfaces on which it is announced.")] = ()


class ServiceL2Status(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Shows which node announces a Service by ARP or NDP."""

    api_version: str = "metallb.io/v1beta1"
    kind: str = "ServiceL2Status"
    metadata: ObjectMeta = ObjectMeta()
    spec: ServiceL2StatusSpec = ServiceL2StatusSpec()
    status: ServiceL2StatusStatus = ServiceL2StatusStatus()
