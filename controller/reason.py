"""Why a Service has an address, or none, and what is said to its user. The values appear in /status, in lbctl explain and in the reference page.

Pure values; the sentence with the facts of a case is the `detail` of a Decision or Refusal.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Reason(StrEnum):
    """The one reason of a decision about a Service."""

    ASSIGNED = "ASSIGNED"
    """It got an address now; the write may still be under way."""
    HOLDS_ADDRESS = "HOLDS_ADDRESS"
    """It keeps the address that its status records."""
    HOLDS_FROM_BROKEN_POOL = "HOLDS_FROM_BROKEN_POOL"
    """It keeps its address although the pool has no valid edition."""
    NOT_LOAD_BALANCER = "NOT_LOAD_BALANCER"
    OTHER_CLASS = "OTHER_CLASS"
    """Its loadBalancerClass belongs to another controller: it is not touched."""
    NO_POOLS = "NO_POOLS"
    NO_CLUSTER_IP = "NO_CLUSTER_IP"
    NOT_ENOUGH_CLUSTER_IPS = "NOT_ENOUGH_CLUSTER_IPS"
    UNKNOWN_FAMILY = "UNKNOWN_FAMILY"
    """The address family cannot be told from its cluster IPs."""
    BAD_REQUEST = "BAD_REQUEST"
    """What it asks for cannot be read."""
    WRONG_FAMILY = "WRONG_FAMILY"
    """It asks for an address of another family than its cluster IP."""
    NOT_IN_A_POOL = "NOT_IN_A_POOL"
    """The address it asks for is in no pool that may give it out."""
    ADDRESS_IN_USE = "ADDRESS_IN_USE"
    UNKNOWN_POOL = "UNKNOWN_POOL"
    POOL_BROKEN = "POOL_BROKEN"
    POOL_NOT_FOR_SERVICE = "POOL_NOT_FOR_SERVICE"
    """The pool is pinned to other namespaces or Services."""
    POOL_MISMATCH = "POOL_MISMATCH"
    """The address it asks for is not in the pool it asks for."""
    POOL_EXHAUSTED = "POOL_EXHAUSTED"
    NAMESPACE_QUOTA = "NAMESPACE_QUOTA"
    """Its namespace has as many addresses as it may have."""
    NO_SUITABLE_POOL = "NO_SUITABLE_POOL"
    """No pool gives addresses of its family to it without being asked."""


@dataclass(frozen=True, slots=True)
class Notice:
    """An Event on the Service."""

    type: Literal["Normal", "Warning"]
    reason: str
    note: str
