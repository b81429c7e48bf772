"""ConfigurationState: whether a process could make sense of the configuration, written by the process itself.

One object for the controller and one per speaker, in our namespace. Only reported, never read by a decision.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from config.kinds.meta import ObjectMeta

LABEL_COMPONENT_TYPE: Final = "metallb.io/component-type"
LABEL_NODE_NAME: Final = "metallb.io/node-name"
BY_TYPE = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
DATE_TIME = {"format": "date-time"}
Generation = Annotated[int, Meta(ge=0, extra_json_schema={"format": "int64"})]


class StateCondition(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One aspect of the state (Kubernetes API conventions, "Typical status properties")."""

    type: Annotated[str, Meta(max_length=316, description="What the condition is about.")]
    status: Annotated[Literal["True", "False", "Unknown"], Meta(description="Whether it holds.")]
    last_transition_time: Annotated[str, Meta(description="When the status last changed.", extra_json_schema=DATE_TIME)]
    reason: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=1024,
            pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
            description="Why, in one word for programs.",
        ),
    ]
    message: Annotated[str, Meta(max_length=32768, description="Why, for people.")]
    observed_generation: Annotated[Generation | None, Meta(description="The generation of the object that was looked at.")] = (
        None
    )


class ConfigurationStateStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the process makes of the configuration."""

    result: Annotated[
        Literal["Valid", "Invalid", "Unknown"] | None,
        Meta(description="Invalid while anything that users wrote is not in force; Unknown until it was looked at."),
    ] = None
    error_summary: Annotated[str, Meta(description="What is wrong, one problem a line; empty when nothing is.")] = ""
    conditions: Annotated[
        tuple[StateCondition, ...], Meta(description="The same in the form of conditions.", extra_json_schema=BY_TYPE)
    ] = ()


class ConfigurationState(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Shows whether the controller, or the speaker of a node, finds the configuration valid."""

    api_version: str = "metallb.io/v1beta1"
    kind: str = "ConfigurationState"
    metadata: ObjectMeta = ObjectMeta()
    status: ConfigurationStateStatus = ConfigurationStateStatus()
