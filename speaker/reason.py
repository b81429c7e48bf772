"""Every yes and every no about announcing an address, with the sentence that users read.

Decisions carry a Reason instead of a text, so that tests, logs, `/status` and `lbctl explain` say the same thing. The value
is what logs and JSON show.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """Why an address is announced by this node, or why it is not.

    `sentence` is a clause that can follow "because"; the facts of the case are in the decision's detail.
    """

    sentence: str

    WON_ELECTION = "WON_ELECTION", "this node won the election among the candidates"
    LOST_ELECTION = "LOST_ELECTION", "another node won the election"

    SERVICE_DELETED = "SERVICE_DELETED", "the Service is gone or is no longer one that we serve"
    NO_ADDRESS = "NO_ADDRESS", "the Service has no address yet"
    INVALID_ADDRESS = "INVALID_ADDRESS", "the Service's status holds something that is not an address"
    ADDRESS_IN_NO_POOL = "ADDRESS_IN_NO_POOL", "no address pool contains the Service's addresses"
    NO_MATCHING_ADVERTISEMENT = "NO_MATCHING_ADVERTISEMENT", "no L2Advertisement covers this pool, Service and node"
    SHARED_WITH_SERVICE_SELECTOR = (
        "SHARED_WITH_SERVICE_SELECTOR",
        "a Service that may share its address cannot be announced by an L2Advertisement with serviceSelectors",
    )
    SHARERS_DISAGREE = "SHARERS_DISAGREE", "no node satisfies every Service that shares the address"
    NO_READY_ENDPOINT = "NO_READY_ENDPOINT", "no endpoint of the Service is ready anywhere"
    NO_LOCAL_ENDPOINT = "NO_LOCAL_ENDPOINT", "externalTrafficPolicy is Local and no ready endpoint is on the node"
    NO_CANDIDATE = "NO_CANDIDATE", "no node may announce it"

    SPEAKER_DOWN = "SPEAKER_DOWN", "no living speaker is on the node"
    NODE_UNKNOWN = "NODE_UNKNOWN", "the API server has no such Node"
    NODE_EXCLUDED = "NODE_EXCLUDED", "the Node carries the label that excludes it from load balancing"
    NODE_NETWORK_UNAVAILABLE = "NODE_NETWORK_UNAVAILABLE", "the Node's network is unavailable"

    WAITING_FOR_MEMBERS = "WAITING_FOR_MEMBERS", "this speaker does not know the other speakers yet"
    ISOLATED = "ISOLATED", "this speaker has lost most of the others and may be cut off itself"
    NO_USABLE_INTERFACE = "NO_USABLE_INTERFACE", "no network interface of this node may carry the announcement"

    BGP_OFFERED = "BGP_OFFERED", "the node announces the Service to every BGP peer that takes it"
    BGP_ANNOUNCED = "BGP_ANNOUNCED", "the peer is told of the Service's prefixes"
    NO_MATCHING_BGP_ADVERTISEMENT = (
        "NO_MATCHING_BGP_ADVERTISEMENT",
        "no BGPAdvertisement covers this pool, Service and node",
    )
    CONFLICTING_LOCAL_PREF = "CONFLICTING_LOCAL_PREF", "the BGPAdvertisements that match contradict each other in localPref"
    PEER_NOT_LISTED = "PEER_NOT_LISTED", "the BGPAdvertisements list other peers"
    PEER_ELSEWHERE = "PEER_ELSEWHERE", "the nodeSelectors of the BGPPeer leave this node out"
    PEER_REFUSED = "PEER_REFUSED", "the BGPPeer can have no session on this node"
    PEER_AS_UNKNOWN = "PEER_AS_UNKNOWN", "the router has not said yet that it has an AS other than ours"
    FAMILY_NOT_CARRIED = "FAMILY_NOT_CARRIED", "the session does not carry routes of this address family"
    NO_NEXT_HOP = "NO_NEXT_HOP", "this node has no address of the family that the router could send to"

    def __new__(cls, value: str, sentence: str = "") -> Self:
        """Make a member whose value is the word and which knows its sentence."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member
