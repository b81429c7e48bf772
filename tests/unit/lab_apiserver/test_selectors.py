from __future__ import annotations

import pytest

from lab.apiserver.errors import ApiError
from lab.apiserver.selectors import matches, parse_fields, parse_labels


@pytest.mark.parametrize(
    ("text", "labels", "held"),
    [
        ("", {}, True),
        ("a=b", {"a": "b"}, True),
        ("a==b", {"a": "c"}, False),
        ("a!=b", {}, True),
        ("a in (b, c)", {"a": "c"}, True),
        ("a in (b,c)", {}, False),
        ("a notin (b)", {}, True),
        ("a notin (b)", {"a": "b"}, False),
        ("a", {"a": ""}, True),
        ("!a", {"a": ""}, False),
        ("! a", {}, True),
        ("a=,b", {"a": "", "b": "x"}, True),
        ("a>5", {"a": "6"}, True),
        ("a>5", {"a": "text"}, False),
        ("a<5", {"a": "4"}, True),
        ("a=b,c=d", {"a": "b", "c": "e"}, False),
    ],
)
def test_label_selectors_hold_as_the_api_says(text: str, labels: dict[str, str], *, held: bool) -> None:
    assert matches(parse_labels(text), labels) is held


@pytest.mark.parametrize("text", ["a in b", "a in (b", "a=b c", "=a", "a b", "(a)"])
def test_a_label_selector_that_cannot_be_read_is_a_bad_request(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_labels(text)
    assert caught.value.code == 400


def test_field_selectors_are_checked_by_name() -> None:
    seen: list[str] = []
    selector = parse_fields("metadata.name=a,type!=b", seen.append)

    assert seen == ["metadata.name", "type"]
    assert matches(selector, {"metadata.name": "a", "type": "c"})
    assert not matches(selector, {"metadata.name": "a", "type": "b"})
    with pytest.raises(ApiError):
        parse_fields("nonsense", seen.append)
