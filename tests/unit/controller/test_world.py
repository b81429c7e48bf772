from __future__ import annotations

import pytest

from controller.world import Family, family_of
from tests.builders import addresses

parity = pytest.mark.parity


@pytest.mark.parametrize(
    ("text", "family"),
    [
        pytest.param("192.0.2.1", Family.IPV4, marks=parity("Kubernetes glue > family detection > one address")),
        pytest.param("2001:db8::1", Family.IPV6, marks=parity("Kubernetes glue > family detection > one address")),
        pytest.param("192.0.2.1 2001:db8::1", Family.DUAL, marks=parity("Kubernetes glue > family detection > two of different families")),
        pytest.param("2001:db8::1 192.0.2.1", Family.DUAL, marks=parity("Kubernetes glue > family detection > two of different families")),
        *(
            pytest.param(text, None, marks=parity("Kubernetes glue > family detection > invalid, none, two of one family, three"))
            for text in ("", "192.0.2.1 192.0.2.2", "2001:db8::1 2001:db8::2", "192.0.2.1 2001:db8::1 192.0.2.2")
        ),
    ],
)  # fmt: skip
def test_the_family_of_addresses(text: str, family: Family | None) -> None:
    assert family_of(addresses(text)) is family
