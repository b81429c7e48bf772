from __future__ import annotations

import pytest

from config.kinds.meta import LabelSelector, LabelSelectorRequirement
from config.selectors import check_selector, check_selectors, compile_selector, matches, matches_any


def expression(key: str, operator: str, *values: str) -> LabelSelectorRequirement:
    return LabelSelectorRequirement(key=key, operator=operator, values=values)  # type: ignore[arg-type]  # rows of tables


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        (LabelSelector(), {}, True),
        (LabelSelector(match_labels={"a": "1"}), {"a": "1", "b": "2"}, True),
        (LabelSelector(match_labels={"a": "1"}), {"a": "2"}, False),
        (LabelSelector(match_labels={"a": "1"}), {}, False),
        (LabelSelector(match_labels={"a": "1", "b": "2"}), {"a": "1"}, False),
        (LabelSelector(match_expressions=(expression("a", "In", "1", "2"),)), {"a": "2"}, True),
        (LabelSelector(match_expressions=(expression("a", "In", "1", "2"),)), {}, False),
        (LabelSelector(match_expressions=(expression("a", "NotIn", "1"),)), {"a": "1"}, False),
        (LabelSelector(match_expressions=(expression("a", "NotIn", "1"),)), {}, True),
        (LabelSelector(match_expressions=(expression("a", "Exists"),)), {"a": ""}, True),
        (LabelSelector(match_expressions=(expression("a", "Exists"),)), {}, False),
        (LabelSelector(match_expressions=(expression("a", "DoesNotExist"),)), {}, True),
        (LabelSelector(match_expressions=(expression("a", "DoesNotExist"),)), {"a": ""}, False),
        (LabelSelector(match_labels={"a": "1"}, match_expressions=(expression("b", "Exists"),)), {"a": "1"}, False),
    ],
)
def test_a_selector_matches_when_all_its_requirements_hold(
    selector: LabelSelector, labels: dict[str, str], expected: object
) -> None:
    assert matches(compile_selector(selector), labels) is expected


def test_one_matching_selector_of_several_is_enough() -> None:
    selectors = [compile_selector(LabelSelector(match_labels={"a": value})) for value in "12"]
    assert matches_any(selectors, {"a": "2"})
    assert not matches_any(selectors, {"a": "3"})
    assert not matches_any([], {})


@pytest.mark.parametrize(
    ("selector", "path", "said"),
    [
        (LabelSelector(match_labels={"-a": "1"}), "s.matchLabels", "invalid label key '-a'"),
        (LabelSelector(match_labels={"Bad/a": "1"}), "s.matchLabels", "invalid label key"),
        (LabelSelector(match_labels={"": "1"}), "s.matchLabels", "invalid label key"),
        (LabelSelector(match_labels={"/a": "1"}), "s.matchLabels", "invalid label key"),
        (LabelSelector(match_labels={"x" * 64: "1"}), "s.matchLabels", "invalid label key"),
        (LabelSelector(match_labels={"a": "b c"}), "s.matchLabels[a]", "invalid label value 'b c'"),
        (LabelSelector(match_expressions=(expression("a", "In"),)), "s.matchExpressions[0].values", "needs values"),
        (LabelSelector(match_expressions=(expression("a", "Exists", "1"),)), "s.matchExpressions[0].values", "takes no values"),
        (
            LabelSelector(match_expressions=(expression("a", "In", "1", "1"),)),
            "s.matchExpressions[0].values",
            "duplicate value",
        ),
        (
            LabelSelector(match_expressions=(expression("a", "In", "ü"),)),
            "s.matchExpressions[0].values[0]",
            "invalid label value",
        ),
        (LabelSelector(match_expressions=(expression("a b", "Exists"),)), "s.matchExpressions[0].key", "invalid label key"),
        (
            LabelSelector(match_expressions=(expression("a", "In", "1", "2"), expression("a", "In", "2", "1"))),
            "s.matchExpressions[1]",
            "duplicate match expression",
        ),
    ],
)
def test_what_the_api_would_refuse_in_a_selector_is_found(selector: LabelSelector, path: str, said: str) -> None:
    (finding,) = check_selector(selector, "s")
    assert (finding.path, said in finding.message) == (path, True)


def test_a_sound_selector_has_no_findings() -> None:
    selector = LabelSelector(match_labels={"example.com/a": ""}, match_expressions=(expression("b.c_d-e", "NotIn", "1", "2"),))
    assert not list(check_selectors([selector, LabelSelector()], "s"))


def test_two_selectors_that_say_the_same_are_found_whatever_the_order_of_values() -> None:
    one = LabelSelector(match_expressions=(expression("a", "In", "1", "2"),))
    two = LabelSelector(match_expressions=(expression("a", "In", "2", "1"),))
    (finding,) = check_selectors([one, two], "s")
    assert (finding.path, finding.message) == ("s[1]", "duplicate selector")
