"""Every yes and every no about announcing an address, with the sentence that users read.

Decisions carry a Reason instead of a text, so that tests, logs, `/status` and `lbctl explain` say the same thing. The value
is what logs and JSON show; where MetalLB has a word for the same outcome, the word is kept.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """Why an address is announced by this node, or why it is not.

    `sentence` is a clause that can follow "because"; the facts of the case are in the decision's detail.
    """

    sentence: str

    WON_ELECTION = "wonElection", "this node won the election among the candidates"
    LOST_ELECTION = "notOwner", "another node won the election"

    SERVICE_DELETED = "serviceDeleted", "the Service is gone or is no longer one that we serve"
    NO_ADDRESS = "noIPAllocated", "the Service has no address yet"
    INVALID_ADDRESS = "invalidIP", "the Service's status holds something that is not an address"
    ADDRESS_IN_NO_POOL = "ipNotAllowed", "no address pool contains the Service's addresses"
    NO_MATCHING_ADVERTISEMENT = "noMatchingAdvertisement", "no L2Advertisement covers this pool, Service and node"
    SHARED_WITH_SERVICE_SELECTOR = (
        "sharedIPWithServiceSelector",
        "a Service that may share its address cannot be announced by an L2Advertisement with serviceSelectors",
    )
    SHARERS_DISAGREE = "sharersDisagree", "no node satisfies every Service that shares the address"
    NO_READY_ENDPOINT = "noReadyEndpoint", "no endpoint of the Service is ready anywhere"
    NO_LOCAL_ENDPOINT = "noLocalEndpoint", "externalTrafficPolicy is Local and no ready endpoint is on the node"
    NO_CANDIDATE = "noCandidate", "no node may announce it"

    SPEAKER_DOWN = "speakerDown", "no living speaker is on the node"
    NODE_UNKNOWN = "nodeUnknown", "the API server has no such Node"
    NODE_EXCLUDED = "nodeLabeledExcludeBalancers", "the Node carries the label that excludes it from load balancing"
    NODE_NETWORK_UNAVAILABLE = "nodeNetworkUnavailable", "the Node's network is unavailable"

    WAITING_FOR_MEMBERS = "waitingForMembers", "this speaker does not know the other speakers yet"
    NO_USABLE_INTERFACE = "noUsableInterface", "no network interface of this node may carry the announcement"
    FAMILY_NOT_SERVED = "familyNotServed", "IPv6 addresses are not announced by this version"

    def __new__(cls, value: str, sentence: str = "") -> Self:
        """Make a member whose value is the word and which knows its sentence."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member
