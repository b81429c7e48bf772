"""Say what is wrong with configuration files, without a cluster: the same compile_config as in the daemons and webhooks.

Called by `lbctl check FILE…`. Reads YAML or JSON, any number of documents and Lists; kinds that are not ours are passed over,
but for Namespaces and Nodes, whose labels are used. Names that nothing in the files has (of a BFDProfile, a community) are
warnings, because the rest may be in the cluster; Secrets are not looked up.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

import yaml

from config import yaml_text
from config.compile import STRUCTS, compile_config
from config.cross import References, Surroundings
from config.kinds import GROUP, KINDS
from config.model import ObjectRef
from config.problem import Problem, Severity, as_json

FINE, FINDING, COULD_NOT_LOOK = 0, 1, 2
STDIN: Final = "-"
MODES: Final = ("native", "frr", "frr-k8s")


@dataclass(frozen=True, slots=True)
class Found:
    """A problem and the file that the object is in."""

    file: str
    problem: Problem


@dataclass(frozen=True, slots=True)
class Document:
    """A document of a file; `value` is whatever YAML made of it."""

    file: str
    value: Any


class UnreadableError(Exception):
    """A file cannot be looked at; the message says which, and why."""


def read(names: Sequence[str], stdin: TextIO) -> Iterator[Document]:
    """All documents of all files, Lists taken apart; a directory stands for its *.yaml, *.yml and *.json files.

    Raises:
        UnreadableError: a file is missing, or is not YAML.

    """
    for file, text in _texts(names, stdin):
        try:
            for value in yaml_text.load_all(text):
                yield from _taken_apart(file, value)
        except yaml.YAMLError as error:
            raise UnreadableError(f"{file}: not YAML: {error}") from error


def _texts(names: Sequence[str], stdin: TextIO) -> Iterator[tuple[str, str]]:
    for name in names:
        if name == STDIN:
            yield "stdin", stdin.read()
            continue
        path = Path(name)
        files = sorted(one for one in path.iterdir() if one.suffix in {".yaml", ".yml", ".json"}) if path.is_dir() else [path]
        for file in files:
            try:
                yield str(file), file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UnreadableError(f"{file}: {error}") from error


def _taken_apart(file: str, value: Any) -> Iterator[Document]:
    if value is None:
        return
    if isinstance(value, Mapping) and isinstance(value.get("items"), list) and str(value.get("kind", "")).endswith("List"):
        yield from (Document(file, item) for item in value["items"])
    else:
        yield Document(file, value)


def check(documents: Sequence[Document], mode: str) -> list[Found]:
    """Everything that is wrong with the documents. Pure."""
    found: list[Found] = []
    ours: list[Mapping[str, Any]] = []
    where: dict[ObjectRef, str] = {}
    for document in documents:
        problem = _stranger(document.value)
        if problem is not None:
            found.append(Found(document.file, problem))
        elif _kind(document.value) in STRUCTS and _group(document.value) == GROUP:
            ours.append(document.value)
            where.setdefault(_ref(document.value), document.file)
    surroundings = Surroundings(mode=mode, references=References.WARN, nodes=_labels(documents, "Node") or None)
    compiled = compile_config(ours, _labels(documents, "Namespace"), {}, surroundings)
    found += (
        Found(where.get(problem.object, ""), problem) for problem in compiled.problems if problem.code != "not-in-force"
    )  # What happens instead depends on what the cluster had before.
    return found


def _kind(document: Any) -> str:
    return str(document.get("kind", "")) if isinstance(document, Mapping) else ""


def _group(document: Any) -> str:
    version = str(document.get("apiVersion", "")) if isinstance(document, Mapping) else ""
    return version.rpartition("/")[0]


def _ref(document: Any) -> ObjectRef:
    metadata = document.get("metadata") if isinstance(document, Mapping) else None
    members = metadata if isinstance(metadata, Mapping) else {}
    name, namespace = (members.get(one) for one in ("name", "namespace"))
    return ObjectRef(
        _kind(document) or "unknown", namespace if isinstance(namespace, str) else "", name if isinstance(name, str) else ""
    )


def _stranger(document: Any) -> Problem | None:
    """What is wrong with a document that is no object, or claims to be of our group and is of no kind or version of it."""
    ref = _ref(document)
    if not isinstance(document, Mapping) or not document.get("kind") or not document.get("apiVersion"):
        return Problem(ref, "", "type", "is no Kubernetes object", "write apiVersion, kind, metadata and spec")
    if _group(document) != GROUP:
        return None
    kind, version = KINDS.get(ref.kind), str(document["apiVersion"]).rpartition("/")[2]
    if kind is None:
        known = ", ".join(sorted(KINDS))
        return Problem(ref, "kind", "unknown-kind", f"{GROUP} has no kind {ref.kind!r}", f"write one of {known}")
    versions = [one.name for one in kind.versions]
    if version not in versions:
        message, remedy = f"{ref.kind} has no version {version!r}", f"write {GROUP}/{versions[-1]}"
        return Problem(ref, "apiVersion", "unknown-version", message, remedy)
    return None


def _labels(documents: Sequence[Document], kind: str) -> dict[str, dict[str, str]]:
    """Name → labels of the built-in objects of a kind in the files."""
    found = {}
    for document in documents:
        if _kind(document.value) == kind and not _group(document.value):
            metadata = document.value.get("metadata")
            labels = metadata.get("labels") if isinstance(metadata, Mapping) else None
            known = labels if isinstance(labels, Mapping) else {}
            found[_ref(document.value).name] = {str(key): str(value) for key, value in known.items()}
    return found


def run(argv: Sequence[str]) -> int:
    """The command; returns the exit status: 0 valid (warnings allowed), 1 invalid, 2 could not look."""
    parser = argparse.ArgumentParser(
        prog="lbctl check",
        description="What is wrong with configuration files, found without a cluster. Give all files together: pools of two "
        "files may overlap.",
        epilog="example: lbctl check pools.yaml advertisements.yaml",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="YAML or JSON; a directory; - for standard input")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.add_argument(
        "--bgp-type",
        choices=MODES,
        default=os.environ.get("METALLB_BGP_TYPE") or MODES[0],
        help="rules of which mode of BGP hold (METALLB_BGP_TYPE; default: native)",
    )
    options = parser.parse_args(argv)
    try:
        documents = list(read(options.files, sys.stdin))
    except UnreadableError as error:
        print(f"lbctl: {error}", file=sys.stderr)
        return COULD_NOT_LOOK
    found = check(documents, options.bgp_type)
    if options.output == "json":
        print(json.dumps([{"file": one.file, **as_json(one.problem)} for one in found], indent=2, ensure_ascii=False))
    else:
        for one in found:
            print(f"{one.file}: {one.problem.severity.value}: {one.problem}")
        looked_at = sum(_group(document.value) == GROUP for document in documents)
        errors = sum(one.problem.severity is Severity.ERROR for one in found)
        print(f"{looked_at} objects, {errors} errors, {len(found) - errors} warnings")
    return FINDING if any(one.problem.severity is Severity.ERROR for one in found) else FINE
