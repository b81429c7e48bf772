"""CEL, in which CustomResourceDefinitions write validation rules: compiled once, evaluated for every write.

The language is Google's own implementation (cel-expr-python); it is loaded when the first definition has a rule. Kubernetes'
extension libraries (quantity(), ip(), url() and the like) are not there: a rule that uses them is refused when its definition
is created, never skipped in silence. Pure.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_TEXTS = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"")
_SAID = {  # How a kube-apiserver says the same.
    "String to Duration conversion failed": "type conversion error from 'string' to 'google.protobuf.Duration'",
}


class CelError(Exception):
    """The rule cannot be compiled, or its evaluation failed; the text is for the user."""


@functools.cache
def _language() -> tuple[Any, Any]:
    from cel_expr_python import cel  # noqa: PLC0415 - 16 MB that a server without such rules does not need

    return cel.NewEnv(variables={"self": cel.Type.DYN, "oldSelf": cel.Type.DYN}), cel.Type.ERROR


@dataclass(frozen=True, slots=True)
class Rule:
    """A compiled rule. `transition`: it mentions oldSelf, so it holds for updates only."""

    program: Any
    transition: bool

    def holds(self, scope: Mapping[str, Any]) -> bool:
        """Whether the rule holds.

        Raises:
            CelError: its evaluation failed.

        """
        result = self.program.eval(data=dict(scope))
        if result.type() == _language()[1]:
            text = str(result.value()).partition(": ")[2]
            raise CelError(_SAID.get(text, text))
        return bool(result.value())


def compile_rule(text: str) -> Rule:
    """Compile a rule.

    Raises:
        CelError: it is no rule.

    """
    try:
        program = _language()[0].compile(text)
    except RuntimeError as error:
        raise CelError(str(error).removeprefix("INVALID_ARGUMENT: ").removesuffix(" [INVALID_ARGUMENT]")) from error
    return Rule(program, bool(re.search(r"\boldSelf\b", _TEXTS.sub("", text))))
