from __future__ import annotations

from typing import Any

import pytest

from config.convert import NEW, OLD, ConversionError, convert

METADATA = {"name": "router", "labels": {"a": "b"}, "uid": "1"}


def a_peer(version: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": "BGPPeer", "metadata": METADATA, "spec": spec, "status": {}}


def test_an_old_peer_becomes_a_new_one_with_its_timers_off_where_it_has_none() -> None:
    old = a_peer(OLD, myASN=1, peerASN=2, peerAddress="192.0.2.1", peerPort=0, nodeSelectors=[{}, {"matchLabels": {"a": "b"}}])
    assert convert(old, NEW) == {
        "apiVersion": NEW,
        "kind": "BGPPeer",
        "metadata": METADATA,
        "spec": {
            "myASN": 1,
            "peerASN": 2,
            "peerAddress": "192.0.2.1",
            "holdTime": "0s",
            "keepaliveTime": "0s",
            "nodeSelectors": [{}, {"matchLabels": {"a": "b"}}],
        },
    }


def test_every_member_of_an_old_peer_survives() -> None:
    spec = {
        "myASN": 1, "peerASN": 2, "peerAddress": "192.0.2.1", "sourceAddress": "192.0.2.2", "peerPort": 1790, "holdTime": "90s",
        "keepaliveTime": "30s", "routerID": "1.2.3.4", "nodeSelectors": [{"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}],
        "password": "x", "bfdProfile": "fast", "ebgpMultiHop": True,
    }  # fmt: skip
    new = convert(a_peer(OLD, **spec), NEW)
    assert new["spec"] == spec
    assert convert(new, OLD)["spec"] == spec


def test_a_new_peer_loses_what_the_old_version_cannot_say() -> None:
    new = a_peer(
        NEW, myASN=1, dynamicASN="external", interface="eth0", connectTime="1s", passwordSecret={"name": "x"}, vrf="red",
        enableGracefulRestart=True, disableMP=True, dualStackAddressFamily=True, localASN=5, peerPort=179,
        nodeSelectors=[{"matchLabels": {}, "matchExpressions": []}],
    )  # fmt: skip
    assert convert(new, OLD)["spec"] == {
        "myASN": 1,
        "peerASN": 0,
        "peerAddress": "",
        "peerPort": 179,
        "holdTime": "0s",
        "keepaliveTime": "0s",
        "nodeSelectors": [{}],
    }


def test_an_object_that_is_in_the_version_already_stays_as_it_is() -> None:
    assert convert(a_peer(NEW, myASN=1), NEW) == a_peer(NEW, myASN=1)


@pytest.mark.parametrize(
    ("document", "wanted", "said"),
    [
        ({"kind": "Community", "apiVersion": OLD}, NEW, "BGPPeer is what can be converted"),
        (a_peer("metallb.io/v1"), NEW, "cannot convert a BGPPeer from 'metallb.io/v1'"),
        (a_peer(NEW), "metallb.io/v3", "to 'metallb.io/v3'"),
        ({"kind": "BGPPeer", "apiVersion": OLD}, NEW, "no spec"),
        (a_peer(OLD, nodeSelectors=["a"]), NEW, "no object"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_a_sentence(document: dict[str, Any], wanted: str, said: str) -> None:
    with pytest.raises(ConversionError, match=said):
        convert(document, wanted)
