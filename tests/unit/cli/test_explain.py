"""One sentence, from what the processes say."""

import socket
from pathlib import Path
from typing import Any

import pytest

from cli import explain as cli_explain
from cli.explain import Explanation, explain, service_key, sockets

NO_ONE: dict[str, Any] = {"announcing": False, "winner": None, "ranking": [], "interfaces": []}


def controller(**service: Any) -> dict[str, Any]:
    said = {"addresses": ["192.0.2.1"], "pool": "public", "reason": "KEPT", "detail": "it holds it already"}
    return {"component": "controller", "plan": {"services": {"default/web": said | service}}}


def speaker(node: str, **service: Any) -> dict[str, Any]:
    said = {"addresses": ["192.0.2.1"], "reason": "LOST_ELECTION", "detail": "b is first of b, a"} | NO_ONE
    return {"component": "speaker", "node": node, "plan": {"services": {"default/web": said | service}}}


def sentence(*statuses: dict[str, Any]) -> str:
    explanation = explain("default/web", statuses)
    assert isinstance(explanation, Explanation)
    return explanation.sentence


def test_an_announced_service_is_told_with_address_pool_owner_and_reason() -> None:
    owner = speaker("b", announcing=True, winner="b", reason="WON_ELECTION", detail="b is first of b, a for 192.0.2.1")
    assert sentence(controller(), speaker("a"), owner) == (
        "default/web has 192.0.2.1 from pool public, announced by b: b is first of b, a for 192.0.2.1."
    )


def test_a_refused_service_is_told_why_it_has_no_address() -> None:
    refused = controller(addresses=[], pool=None, reason="POOL_EXHAUSTED", detail="pool public has no free address")
    assert sentence(refused, speaker("a")) == "default/web has no address: pool public has no free address."


def test_a_service_that_nobody_announces_is_told_the_reason_of_a_speaker() -> None:
    idle = speaker("a", reason="NO_READY_ENDPOINT", detail="no endpoint is ready")
    assert (
        sentence(controller(), idle) == "default/web has 192.0.2.1 from pool public, announced by nobody: no endpoint is ready."
    )


def test_two_announcers_are_named_as_a_disagreement() -> None:
    both = (speaker("b", announcing=True, detail="x"), speaker("a", announcing=True, detail="y"))
    assert "announced by a and b (they disagree" in sentence(controller(), *both)


def test_without_speakers_the_sentence_says_that_none_answered() -> None:
    assert sentence(controller()).endswith("announced by nobody that answers here: no speaker answered here.")


def test_without_a_controller_the_address_comes_from_the_speakers() -> None:
    assert (
        sentence(speaker("b", announcing=True, detail="b is alone")) == "default/web has 192.0.2.1, announced by b: b is alone."
    )


def test_an_unknown_service_has_no_explanation() -> None:
    assert explain("default/other", [controller(), speaker("a")]) is None


@pytest.mark.parametrize(
    ("typed", "key"),
    [("svc/web", "team/web"), ("service/web", "team/web"), ("web", "team/web"), ("other/web", "other/web")],
)
def test_users_may_type_the_service_in_several_ways(typed: str, key: str) -> None:
    assert service_key(typed, "team") == key


def test_the_variable_wins_over_the_lab_and_the_lab_over_the_usual_directory(tmp_path: Path) -> None:
    (tmp_path / "pods").mkdir()
    (tmp_path / "pods" / "speaker.sock").touch()
    (tmp_path / "supervisor.sock").touch()
    assert sockets({"METALLB_STATUS_SOCKET": "/a:/b"}, tmp_path) == [Path("/a"), Path("/b")]
    assert sockets({}, tmp_path) == [tmp_path / "pods" / "speaker.sock"]
    assert sockets({}, tmp_path / "absent") == sorted(Path("/run/metallb").glob("*.sock"))


def test_a_process_that_does_not_answer_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "speaker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    assert cli_explain.run(["svc/web", "--socket", str(path)]) == 2
    assert str(path) in capsys.readouterr().out


def test_no_socket_at_all_is_said_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli_explain, "RUN_DIRECTORY", tmp_path)
    monkeypatch.setenv("METALLB_LAB", str(tmp_path / "absent"))
    monkeypatch.delenv("METALLB_STATUS_SOCKET", raising=False)
    assert cli_explain.run(["svc/web"]) == 2
    assert "--socket" in capsys.readouterr().out


def test_the_module_has_an_example_in_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli_explain.run(["--help"])
    assert "example: lbctl explain" in capsys.readouterr().out
