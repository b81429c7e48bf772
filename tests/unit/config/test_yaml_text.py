from __future__ import annotations

from typing import Any

import pytest
import yaml

from config.yaml_text import load, load_all


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1234:1", "1234:1"),
        ("65535:65281", "65535:65281"),
        ("1:30.5", "1:30.5"),
        ("2026-01-01", "2026-01-01"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("180", 180),
        ("-1", -1),
        ("0", 0),
        ("010", 8),
        ("0x1F", 31),
        ("0b11", 3),
        ("1_000", 1000),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.5e+3", 1500.0),
        (".inf", float("inf")),
        ("1.2.3.4", "1.2.3.4"),
        ("10s", "10s"),
        ("yes", True),
        ("off", False),
        ("y", True),
        ("n", False),
        ("~", None),
        ("'1'", "1"),
    ],
)
def test_a_plain_scalar_is_what_kubectl_takes_it_for(text: str, value: Any) -> None:
    found = load(f"a: {text}")["a"]
    assert (found, type(found)) == (value, type(value))


def test_documents_are_read_one_by_one_and_nonsense_is_refused() -> None:
    assert list(load_all("a: 1\n---\nb: 1:2\n")) == [{"a": 1}, {"b": "1:2"}]
    with pytest.raises(yaml.YAMLError):
        load("a: [")
