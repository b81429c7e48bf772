"""A table of objects, valid and invalid, and what compile_config says of each; tests/integration/config asks API server and webhooks."""

from __future__ import annotations

import pytest

from config.compile import compile_config
from config.cross import Surroundings
from config.problem import Severity
from tests.unit.config.objects import ROWS, Row, document


def test_the_table_is_long_enough_to_mean_something() -> None:
    assert len(ROWS) >= 120
    assert {row.kind for row in ROWS} == {
        "IPAddressPool",
        "L2Advertisement",
        "BGPAdvertisement",
        "BGPPeer",
        "BFDProfile",
        "Community",
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.title)
@pytest.mark.parity(
    "Parser > timers > holdTime below 3s",
    "Parser > timers > keepaliveTime above holdTime",
    "Parser > pool > octet out of range",
    "Parser > pool > prefix length 33",
    "Parser > pool > reversed range",
    "Parser > pool > no addresses",
    "Parser > password > both ways",
    "Parser > BFD > receiveInterval 2 or 90000",
    "Parser > selectors or values twice",
    "Parser > preferredNodeSelectors > an unknown operator",
    "Parser > preferredNodeSelectors > an empty preference",
    "Parser > serviceSelectors with the default lengths",
    "Parser > serviceSelectors with other lengths",
    "Communities > one part",
    "Communities > three parts",
    "Communities > a marker that is not large",
    "Communities > a section that is no number",
    "Modes > native > each member that is not supported",
    "Modes > native > a peer with what is supported",
)
def test_each_object_is_valid_or_its_fault_is_named_with_path_and_message(row: Row) -> None:
    result = compile_config([document(row)], {}, {}, Surroundings(mode=row.mode))
    errors = [one for one in result.problems if one.severity is Severity.ERROR]
    if not row.refused:
        assert not errors
        return
    assert (row.path, True) in [(one.path, row.message in one.message) for one in errors], errors
    assert all(one.remedy for one in errors)
    assert result.stale
    assert not result.valid
