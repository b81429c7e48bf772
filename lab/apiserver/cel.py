"""A small part of CEL: what the validation rules of our CustomResourceDefinitions are written in.

compile_rule() parses once, Rule.holds() evaluates. Known: literals, fields, indexing, has(), size(), matches(), startsWith(),
endsWith(), contains(), duration() with its getters, all/exists/map-free macros, the operators, `in`, and the ternary. A rule
that uses more is refused when its definition is created, never skipped in silence. Pure.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+\.\d+|\d+)|(?P<text>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")|(?P<name>[A-Za-z_]\w*)
    |(?P<op>\|\||&&|==|!=|<=|>=|[-+*/%!<>?:.,()\[\]]))""",
    re.VERBOSE,
)
Scope = Mapping[str, Any]
Node = Callable[[Scope], Any]


class CelError(Exception):
    """The rule cannot be parsed, or its evaluation failed; the text is for the user."""


@dataclass(frozen=True, slots=True)
class Duration:
    """A google.protobuf.Duration."""

    seconds: float


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def parse_duration(text: str) -> Duration:
    """Go's duration syntax.

    Raises:
        CelError: it is no duration.

    """
    body = text.lstrip("+-")
    parts = re.findall(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|us|µs|ns|m|s)", body)
    if text != "0" and (not parts or "".join(n + u for n, u in parts) != body):
        raise CelError("type conversion error from 'string' to 'google.protobuf.Duration'")
    total = sum(float(n) * _UNITS[u] for n, u in parts)
    return Duration(-total if text.startswith("-") else total)


_METHODS: dict[str, Callable[..., Any]] = {
    "size": len,
    "matches": lambda s, p: re.search(p, s) is not None,
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": lambda s, p: p in s,
    "getSeconds": lambda d: int(d.seconds),
    "getMilliseconds": lambda d: round(d.seconds * 1000),
    "getMinutes": lambda d: int(d.seconds // 60),
    "getHours": lambda d: int(d.seconds // 3600),
    "lowerAscii": str.lower,
    "upperAscii": str.upper,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "size": len,
    "duration": parse_duration,
    "int": int,
    "string": str,
    "double": float,
}
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": lambda a, b: a == b, "!=": lambda a, b: a != b, "<": lambda a, b: a < b, "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b, ">=": lambda a, b: a >= b, "in": lambda a, b: a in b,
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b,
    "/": lambda a, b: a / b if isinstance(a, float) else int(a / b), "%": lambda a, b: a - b * int(a / b),
}  # fmt: skip
_LEVELS = (("==", "!=", "<", "<=", ">", ">=", "in"), ("+", "-"), ("*", "/", "%"))


def _constant(value: Any) -> Node:
    return lambda _: value


def _variable(name: str) -> Node:
    return lambda scope: scope[name]


def _called(function: Callable[..., Any], *arguments: Node) -> Node:
    return lambda scope: function(*(a(scope) for a in arguments))


def _either(left: Node, right: Node) -> Node:
    return lambda scope: bool(left(scope)) or bool(right(scope))


def _both(left: Node, right: Node) -> Node:
    return lambda scope: bool(left(scope)) and bool(right(scope))


class _Parser:
    """Recursive descent over the tokens of one rule; builds closures. Knows which names the rule mentions."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str, int]] = []
        at = 0
        text = text.strip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if not found or found.end() == at:
                raise CelError(f"ERROR: <input>:1:{at + 1}: Syntax error: token recognition error at: '{text[at]}'")
            kind = found.lastgroup or "op"
            self.tokens.append((kind, found[kind], found.start(kind)))
            at = found.end()
        self.at = 0
        self.names: set[str] = set()
        self.fields: list[tuple[tuple[str, ...], int]] = []  # Chains of plain fields from a root name, with their column.

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def take(self, wanted: str = "") -> tuple[str, str, int]:
        if self.at >= len(self.tokens) or (wanted and self.peek() != wanted):
            raise CelError(
                f"ERROR: <input>:1:{self.at + 1}: Syntax error: mismatched input '{self.peek()}' expecting '{wanted}'"
            )
        self.at += 1
        return self.tokens[self.at - 1]

    def ternary(self) -> Node:
        condition = self.either()
        if self.peek() != "?":
            return condition
        self.take()
        yes = self.ternary()
        self.take(":")
        no = self.ternary()
        return lambda s: yes(s) if condition(s) else no(s)

    def either(self) -> Node:
        left = self.both()
        while self.peek() == "||":
            self.take()
            left = _either(left, self.both())
        return left

    def both(self) -> Node:
        left = self.binary(0)
        while self.peek() == "&&":
            self.take()
            left = _both(left, self.binary(0))
        return left

    def binary(self, level: int) -> Node:
        if level == len(_LEVELS):
            return self.unary()
        left = self.binary(level + 1)
        while self.peek() in _LEVELS[level]:
            operate = _COMPARE[self.take()[1]]
            left = _called(operate, left, self.binary(level + 1))
        return left

    def unary(self) -> Node:
        if self.peek() == "!":
            self.take()
            inner = self.unary()
            return lambda s: not inner(s)
        if self.peek() == "-":
            self.take()
            inner = self.unary()
            return lambda s: -inner(s)
        return self.postfix()

    def arguments(self) -> list[Node]:
        self.take("(")
        out = []
        while self.peek() != ")":
            out.append(self.ternary())
            if self.peek() == ",":
                self.take()
        self.take(")")
        return out

    def postfix(self) -> Node:
        kind, text, _ = self.take()
        chain: tuple[str, ...] = ()
        if kind == "number":
            node = _constant(float(text) if "." in text else int(text))
        elif kind == "text":
            node = _constant(re.sub(r"\\(.)", r"\1", text[1:-1]))
        elif text == "(":
            node = self.ternary()
            self.take(")")
        elif text == "[":
            items = []
            while self.peek() != "]":
                items.append(self.ternary())
                if self.peek() == ",":
                    self.take()
            self.take("]")
            node = _called(lambda *values: list(values), *items)
        elif text in {"true", "false", "null"}:
            node = _constant({"true": True, "false": False, "null": None}[text])
        elif text == "has":
            node = self.has()
        elif kind == "name" and self.peek() == "(":
            if text not in _FUNCTIONS:
                raise CelError(f"undeclared reference to '{text}'")
            node = _called(_FUNCTIONS[text], *self.arguments())
        elif kind == "name":
            self.names.add(text)
            chain = (text,)
            node = _variable(text)
        else:
            raise CelError(f"Syntax error: unexpected '{text}'")
        return self.suffixes(node, chain)

    def has(self) -> Node:
        self.take("(")
        inner = self.postfix()
        self.take(")")

        def present(scope: Scope) -> bool:
            try:
                return inner(scope) is not None
            except (KeyError, TypeError):
                return False

        return present

    def suffixes(self, node: Node, chain: tuple[str, ...]) -> Node:
        while self.peek() in {".", "["}:
            if self.take()[1] == "[":
                node = _called(operator.getitem, node, self.ternary())
                self.take("]")
                chain = ()
                continue
            at = self.at
            name = self.take()[1]
            if self.peek() == "(" and name in {"all", "exists"}:
                node = self.macro(name, node)
                chain = ()
            elif self.peek() == "(":
                if name not in _METHODS:
                    raise CelError(f"undeclared reference to '{name}'")
                node = _called(_METHODS[name], node, *self.arguments())
                chain = ()
            else:
                if chain:
                    chain = (*chain, name)
                    self.fields.append((chain, self.tokens[at - 1][2] + 1))
                node = _called(operator.getitem, node, _constant(name))
        return node

    def macro(self, name: str, node: Node) -> Node:
        self.take("(")
        variable = self.take()[1]
        self.take(",")
        body = self.ternary()
        self.take(")")
        fold = all if name == "all" else any
        return lambda s: fold(body({**s, variable: item}) for item in node(s))


@dataclass(frozen=True, slots=True)
class Rule:
    """A compiled rule. `transition`: it mentions oldSelf, so it holds for updates only. `fields`: chains it reads."""

    text: str
    evaluate: Node
    transition: bool
    fields: tuple[tuple[tuple[str, ...], int], ...]

    def holds(self, scope: Scope) -> bool:
        """Whether the rule holds.

        Raises:
            CelError: its evaluation failed.

        """
        try:
            return bool(self.evaluate(scope))
        except KeyError as error:
            raise CelError(f"no such key: {error.args[0]}") from error
        except (TypeError, ValueError, ZeroDivisionError, IndexError) as error:
            raise CelError(str(error)) from error


def compile_rule(text: str) -> Rule:
    """Parse a rule.

    Raises:
        CelError: it is no rule that is understood here.

    """
    parser = _Parser(text)
    node = parser.ternary()
    if parser.at != len(parser.tokens):
        raise CelError(f"Syntax error: extraneous input '{parser.peek()}'")
    return Rule(text, node, "oldSelf" in parser.names, tuple(parser.fields))
