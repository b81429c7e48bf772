"""YAML as kubectl reads it, so that a file means the same to `lbctl check`, to the lab and to a cluster.

Go's library takes YAML 1.1, but leaves times and numbers to base 60 as text: `value: 1234:1` of a Community is a string to kubectl
and would be the number 74041 to PyYAML. Called by cli.check and the lab's API server; refuses nothing that PyYAML takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

_BASE: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Loader(_BASE):  # type: ignore[misc]  # The loader in C where it is built.
    """A safe loader with Go's idea of plain scalars."""


_TAG = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"^[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_LEFT_OUT = {f"{_TAG}{kind}" for kind in ("timestamp", "int", "float")}
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in _LEFT_OUT]
    for first, known in Loader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(f"{_TAG}int", _INTEGER, list("-+0123456789"))
Loader.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+0123456789."))
Loader.add_implicit_resolver(f"{_TAG}bool", re.compile(r"^[yYnN]$"), list("yYnN"))  # Single letters too, as YAML 1.1 says.
Loader.add_constructor(f"{_TAG}bool", lambda _, node: str(node.value).lower() in {"y", "yes", "true", "on"})


def load(text: str | bytes) -> Any:
    """The one document of a text.

    Raises:
        yaml.YAMLError: it is no YAML, or more than one document.

    """
    return yaml.load(text, Loader=Loader)  # noqa: S506 - A safe loader, with resolvers taken away.


def load_all(text: str | bytes) -> Iterator[Any]:
    """All documents of a text.

    Raises:
        yaml.YAMLError: it is no YAML.

    """
    yield from yaml.load_all(text, Loader=Loader)
