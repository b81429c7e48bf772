from __future__ import annotations

from typing import Any

import pytest

from lab.apiserver.cel import CelError, compile_rule


@pytest.mark.parametrize(
    ("rule", "scope", "held"),
    [
        ("self == oldSelf", {"self": 1, "oldSelf": 1}, True),
        ("self == oldSelf", {"self": 1, "oldSelf": 2}, False),
        ("!has(self.a) || self.a.size() == 0", {"self": {}}, True),
        ("!has(self.a) || self.a.size() == 0", {"self": {"a": [1]}}, False),
        ("has(self.a.b)", {"self": {"a": {}}}, False),
        ("duration(self).getSeconds() >= 1 && duration(self).getMilliseconds() % 1000 == 0", {"self": "1m30s"}, True),
        ("duration(self).getSeconds() >= 1", {"self": "500ms"}, False),
        ("self.all(x, x > 1)", {"self": [2, 3]}, True),
        ("self.exists(x, x == 9)", {"self": [2, 3]}, False),
        ("self in ['a', \"b\"]", {"self": "b"}, True),
        ("self.matches('^a+$') ? size(self) < 3 : false", {"self": "aa"}, True),
        ("self[0] + 1 == 3 - -1", {"self": [3]}, True),
        ("self.a != null && !(self.a.startsWith('x'))", {"self": {"a": "y"}}, True),
        ("7 / 2 == 3 && -7 / 2 == -3 && 7.0 / 2.0 > 3.4", {}, True),
    ],
)
def test_rules_of_our_definitions_evaluate(rule: str, scope: dict[str, Any], *, held: bool) -> None:
    assert compile_rule(rule).holds(scope) is held


def test_only_rules_about_the_old_value_are_transition_rules() -> None:
    assert compile_rule("self == oldSelf").transition
    assert not compile_rule("self == 1").transition


@pytest.mark.parametrize("rule", ["self ==", "self.unknown()", "frob(self)", "self @ 1", "self)", "(self", "self 1"])
def test_a_rule_that_is_not_understood_does_not_compile(rule: str) -> None:
    with pytest.raises(CelError):
        compile_rule(rule)


@pytest.mark.parametrize(
    ("rule", "scope"),
    [
        ("self.a == 1", {"self": {}}),
        ("self % 0 == 1", {"self": 1}),
        ("self < 'x'", {"self": 1}),
        ("duration(self) == self", {"self": "soon"}),
    ],
)
def test_an_evaluation_that_fails_says_so(rule: str, scope: dict[str, Any]) -> None:
    with pytest.raises(CelError):
        compile_rule(rule).holds(scope)
