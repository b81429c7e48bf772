"""What speakers tell each other of their MAC addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.model import NodeName
from speaker.peers import LENGTH_MAX, MACS_MAX, Card, Peers, decode, encode
from tests.builders_speaker import MAC, OTHER_MAC, nodes

A, B = NodeName("a"), NodeName("b")


def test_what_is_told_is_understood() -> None:
    assert decode(encode(A, [MAC, OTHER_MAC], "r")) == Card(A, frozenset({MAC, OTHER_MAC}), "r")
    many = decode(encode(A, [index.to_bytes(6, "big") for index in range(1000)], "r"))
    assert many is not None
    assert len(many.macs) == MACS_MAX


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"serf's own bytes",
        b'{"node":"a"}',
        b'{"kind":"lb.metallb-py.io/v2","node":"a","macs":[]}',
        b'{"kind":"lb.metallb-py.io/v1","node":"a","macs":["zz"]}',
        b'{"kind":"lb.metallb-py.io/v1","node":7,"macs":[]}',
        b" " * (LENGTH_MAX + 1),
    ],
)
def test_anything_else_is_ignored(said: bytes) -> None:
    assert decode(said) is None
    assert not Peers().learn(said, nodes("a"))


@given(st.binary(max_size=200))
def test_no_bytes_raise(said: bytes) -> None:
    decode(said)


def test_members_are_believed_about_themselves_and_others_are_not() -> None:
    peers = Peers()
    peers.learn(encode(A, [MAC], "r"), nodes("a b"))
    peers.learn(encode(NodeName("c"), [OTHER_MAC], "r"), nodes("a b"))
    assert peers.node_of() == {MAC: A}
    peers.learn(encode(A, [OTHER_MAC], "r"), nodes("a b"))
    assert peers.node_of() == {OTHER_MAC: A}


def test_an_address_of_two_belongs_to_the_first_by_name() -> None:
    peers = Peers()
    for node in (B, A):
        peers.learn(encode(node, [MAC], "r"), nodes("a b"))
    assert peers.node_of() == {MAC: A}


def test_a_member_that_returns_as_the_same_run_was_cut_off() -> None:
    peers, everybody = Peers(), nodes("a b")
    assert not peers.learn(encode(B, [MAC], "one"), everybody), "it is new"
    assert not peers.learn(encode(B, [MAC], "one"), everybody), "it was not lost"
    peers.lost(B)
    assert not peers.learn(encode(B, [MAC], "one"), nodes("a")), "it is not back yet"
    assert peers.learn(encode(B, [MAC], "one"), everybody)
    assert not peers.learn(encode(B, [MAC], "one"), everybody), "once"
    peers.lost(B)
    assert not peers.learn(encode(B, [MAC], "two"), everybody), "it was started anew"


def test_of_a_stranger_to_cards_nothing_is_known() -> None:
    peers = Peers()
    peers.lost(B)
    assert not peers.learn(encode(B, [MAC], ""), nodes("a b"))
    peers.lost(B)
    assert not peers.learn(encode(B, [MAC], ""), nodes("a b")), "no run, no proof"
