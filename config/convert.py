"""Objects of one version of a kind turned into another version: only BGPPeer has two.

Called by the conversion webhook of the controller and by config.compile, which understands the stored version. Works on
parsed JSON documents, because what the API server hands over has been checked against a schema and nothing else. Pure.
What a version cannot say is dropped: a v1beta2 peer that goes through v1beta1 loses nine members.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from config.kinds import GROUP

OLD: Final = f"{GROUP}/v1beta1"
NEW: Final = f"{GROUP}/v1beta2"
NO_TIMER: Final = "0s"
"""What an absent timer becomes, in both directions: timers off, not a default. Existing clusters rely on it."""

SHARED: Final = (
    "myASN",
    "peerASN",
    "peerAddress",
    "sourceAddress",
    "peerPort",
    "routerID",
    "password",
    "bfdProfile",
    "ebgpMultiHop",
)


class ConversionError(ValueError):
    """A document cannot be converted; the message says why."""


def convert(document: Mapping[str, Any], wanted: str) -> dict[str, Any]:
    """The document as an object of apiVersion `wanted`. Its metadata stays as it is; its status is not carried over.

    Raises:
        ConversionError: not a BGPPeer, an unknown version, or no object at all.

    """
    kind, version = document.get("kind"), document.get("apiVersion")
    if kind != "BGPPeer":
        raise ConversionError(f"{kind!r} has one version only; BGPPeer is what can be converted")
    if version == wanted:
        return dict(document)
    spec = document.get("spec")
    if not isinstance(spec, Mapping):
        raise ConversionError("the BGPPeer has no spec")
    match version, wanted:
        case (str(source), str(target)) if (source, target) == (OLD, NEW):
            converted = _newer(spec)
        case (str(source), str(target)) if (source, target) == (NEW, OLD):
            converted = _older(spec)
        case _:
            raise ConversionError(f"cannot convert a BGPPeer from {version!r} to {wanted!r}; known are {OLD} and {NEW}")
    return {"apiVersion": wanted, "kind": kind, "metadata": document.get("metadata", {}), "spec": converted}


def _newer(spec: Mapping[str, Any]) -> dict[str, Any]:
    converted = _shared(spec)
    if not converted.get("peerPort"):
        converted.pop("peerPort", None)  # The stored version has a default for it.
    return converted


def _older(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"peerASN": 0, "peerAddress": "", **_shared(spec)}


def _shared(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The members that both versions have, in the order of the struct."""
    converted: dict[str, Any] = {name: spec[name] for name in SHARED if name in spec}
    converted["holdTime"] = spec.get("holdTime") or NO_TIMER
    converted["keepaliveTime"] = spec.get("keepaliveTime") or NO_TIMER
    if spec.get("nodeSelectors"):
        converted["nodeSelectors"] = [_selector(one) for one in spec["nodeSelectors"]]
    return converted


def _selector(selector: object) -> dict[str, Any]:
    """Both versions write selectors alike, but for empty members, which are left out."""
    if not isinstance(selector, Mapping):
        raise ConversionError("spec.nodeSelectors has an entry that is no object")
    return {name: value for name, value in selector.items() if value}
