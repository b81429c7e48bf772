from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli import check
from cli.__main__ import main
from cli.generate import ROOT
from config.compile import compile_config
from config.cross import Surroundings
from config.problem import Problem, Severity
from tests.builders import a_pool_document, an_l2_document
from tests.unit.config.objects import ROWS, Row, document

EXAMPLES = ROOT / "docs" / "examples"


def written(folder: Path, name: str, *documents: Any) -> str:
    path = folder / name
    path.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    return str(path)


def test_our_examples_are_valid(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--bgp-type=frr", str(EXAMPLES)]) == 0
    said = capsys.readouterr().out
    assert "10 objects, 0 errors, 1 warnings" in said
    assert "v1beta1 BGPPeer is deprecated" in said


def test_all_problems_of_all_files_are_said_with_their_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = written(tmp_path, "one.yaml", a_pool_document("a", ["10.0.0.0/24"]), None, a_pool_document("b", ["10.0.0.1"]))
    two = written(
        tmp_path, "two.yaml", a_pool_document("c", ["10.0.0.0/25"], created=1), an_l2_document("x", nodeSelectors=[{}, {}])
    )
    assert main(["check", one, two]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": invalid")[0].partition(": CIDR")[0].partition(": dup")[0] for line in lines[:-1]] == [
        f"{one}: error: IPAddressPool metallb-system/b: spec.addresses[0]",
        f"{two}: error: IPAddressPool metallb-system/c: spec.addresses[0]",
        f"{two}: error: L2Advertisement metallb-system/x: spec.nodeSelectors[1]",
    ]
    assert lines[-1] == "4 objects, 3 errors, 0 warnings"


def test_programs_get_the_same_as_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, "one.yaml", a_pool_document("a", ["10.0.0.1"]))
    assert main(["check", "-o", "json", file]) == 1
    (problem,) = json.loads(capsys.readouterr().out)
    assert problem.keys() == {"file", "object", "path", "code", "value", "message", "remedy", "severity"}
    assert (problem["file"], problem["path"], problem["value"]) == (file, "spec.addresses[0]", '"10.0.0.1"')
    assert main(["check", "-o", "json", written(tmp_path, "two.yaml", a_pool_document())]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({**a_pool_document(), "kind": "IPAdressPool"}, "kind: metallb.io has no kind 'IPAdressPool' (write one of BFDProfile"),
        ({**a_pool_document(), "kind": "AddressPool"}, "has no kind 'AddressPool'"),
        ({**a_pool_document(), "apiVersion": "metallb.io/v1"}, "apiVersion: IPAddressPool has no version 'v1' (write metallb.io/v1beta1)"),
        ({"metadata": {"name": "x"}}, "is no Kubernetes object"),
        ("text", "is no Kubernetes object"),
        ({**a_pool_document(), "metadata": None}, "metadata.name: is required"),
        ({**a_pool_document(), "metadata": {"name": 5}}, "metadata.name: is required"),
    ],
)  # fmt: skip
def test_a_document_that_is_none_of_our_objects_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], document: Any, said: str
) -> None:
    assert main(["check", written(tmp_path, "x.yaml", document)]) == 1
    assert said in capsys.readouterr().out


def test_other_kinds_are_passed_over_and_lists_taken_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many = {"apiVersion": "v1", "kind": "List", "items": [a_pool_document("a"), {"apiVersion": "v1", "kind": "Secret"}]}
    assert main(["check", written(tmp_path, "x.yaml", many)]) == 0
    assert "1 objects, 0 errors" in capsys.readouterr().out


def test_nodes_in_the_files_decide_about_peers(tmp_path: Path) -> None:
    def a_peer(name: str, host: str) -> dict[str, Any]:
        selectors = [{"matchLabels": {"host": host}}]
        spec = {"myASN": 1, "peerASN": 2, "peerAddress": "192.0.2.1", "nodeSelectors": selectors}
        return {"apiVersion": "metallb.io/v1beta2", "kind": "BGPPeer", "metadata": {"name": name}, "spec": spec}

    peers = a_peer("one", "a"), a_peer("two", "b")
    nodes = [{"apiVersion": "v1", "kind": "Node", "metadata": {"name": host, "labels": {"host": host}}} for host in "ab"]
    both = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "c", "labels": {"host": "b", "other": "yes"}}}
    peers[0]["spec"]["nodeSelectors"] = [{"matchLabels": {"host": "a"}}, {"matchLabels": {"other": "yes"}}]
    assert main(["check", "--bgp-type=frr", written(tmp_path, "peers.yaml", *peers)]) == 0
    assert main(["check", "--bgp-type=frr", written(tmp_path, "apart.yaml", *peers, *nodes)]) == 0
    assert main(["check", "--bgp-type=frr", written(tmp_path, "all.yaml", *peers, *nodes, both)]) == 1
    assert main(["check", written(tmp_path, "native.yaml", *peers)]) == 0


def test_standard_input_is_a_file_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(a_pool_document("a", ["x"]))))
    assert main(["check", "-"]) == 1
    assert capsys.readouterr().out.startswith("stdin: error: IPAddressPool metallb-system/a: spec.addresses[0]")


@pytest.mark.parametrize("text", ["a: [", None, b"\xff\xfe\xfd"])
def test_what_cannot_be_read_is_said_and_is_no_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | bytes | None
) -> None:
    file = tmp_path / "x.yaml"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["check", str(file)]) == check.COULD_NOT_LOOK
    assert f"lbctl: {file}" in capsys.readouterr().err


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.title)
def test_files_are_judged_as_the_daemons_judge_objects(row: Row) -> None:
    def said(problems: Iterable[Problem]) -> set[tuple[str, str]]:
        return {(one.path, one.message) for one in problems if one.code != "not-in-force"}

    found = [one.problem for one in check.check([check.Document("file", document(row))], row.mode)]
    assert said(found) == said(compile_config([document(row)], {}, {}, Surroundings(mode=row.mode)).problems)
    assert any(one.severity is Severity.ERROR for one in found) == (
        row.refused != "" and "unresolved" not in {one.code for one in found}
    )
