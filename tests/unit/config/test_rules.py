from __future__ import annotations

from config.rules import Occupied
from config.values import parse_range


def test_an_overlap_is_found_wherever_it_is() -> None:
    occupied = Occupied()
    for text in ("10.0.0.10-10.0.0.19", "10.0.0.30-10.0.0.39", "fc00::/64"):
        occupied.add(parse_range(text), text)
    occupied.check_invariants()
    expected = {
        "10.0.0.0-10.0.0.9": None,
        "10.0.0.0-10.0.0.10": "10.0.0.10-10.0.0.19",
        "10.0.0.12-10.0.0.13": "10.0.0.10-10.0.0.19",
        "10.0.0.19-10.0.0.30": "10.0.0.10-10.0.0.19",
        "10.0.0.20-10.0.0.29": None,
        "10.0.0.20-10.0.0.30": "10.0.0.30-10.0.0.39",
        "10.0.0.0-10.0.0.255": "10.0.0.10-10.0.0.19",
        "10.0.0.40-10.0.0.41": None,
        "fc00::1-fc00::1": "fc00::/64",
        "fc00:0:0:1::-fc00:0:0:1::1": None,
    }
    found = {text: occupied.overlapping(parse_range(text)) for text in expected}
    assert {text: other[1] if other else None for text, other in found.items()} == expected
