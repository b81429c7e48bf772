"""What every Kubernetes object has in common: metadata, label selectors, conditions.

Used by the custom resource kinds beside this file and by the views of built-in kinds in kube.objects, so that a label
means the same everywhere. Unknown members are ignored here on purpose: metadata belongs to the API server, not to us.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Labels = dict[str, str]


class OwnerReference(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The object whose deletion takes this one along (Kubernetes garbage collection)."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False
    block_owner_deletion: bool = False


class ObjectMeta(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The members of metadata that we read or write. All have defaults: a watch bookmark carries only the version."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    generate_name: str = ""
    labels: Labels | None = None
    annotations: dict[str, str] | None = None
    owner_references: tuple[OwnerReference, ...] | None = None


class LabelSelectorRequirement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One expression over a label; all expressions of a selector must hold."""

    key: Annotated[str, Meta(description="The label the expression is about.")]
    operator: Annotated[
        Literal["In", "NotIn", "Exists", "DoesNotExist"],
        Meta(description="In and NotIn compare with values; Exists and DoesNotExist take none."),
    ]
    values: Annotated[tuple[str, ...], Meta(description="The values for In and NotIn.")] = ()


class LabelSelector(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """A label query; an empty selector matches every object."""

    match_labels: Annotated[Labels, Meta(description="Labels the object must have, with these values.")] = {}
    match_expressions: Annotated[tuple[LabelSelectorRequirement, ...], Meta(description="Expressions that must all hold.")] = ()


class Condition(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One aspect of an object's state (Kubernetes API conventions, "Typical status properties")."""

    type: str
    status: str = "Unknown"
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None
    observed_generation: int = 0
