"""Starting and ending labs, as far as no lab has to be up for it; and what is said when one cannot be."""

import asyncio
import os
import re
import shutil
from pathlib import Path

import pytest

from lab import control, lifecycle, paths
from lab.__main__ import main
from lab.lifecycle import MissingError
from lab.paths import LabError, Paths, State
from lab.scenarios.first_service import FirstService
from lab.scenarios.node_death import NodeDeath
from telemetry.unix import short_path


@pytest.fixture
def where(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "lab")


def test_the_state_directory_is_the_given_one_or_the_variables_or_the_clones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(paths.ENVIRONMENT, str(tmp_path / "b"))
    assert paths.paths(str(tmp_path / "a")).root == tmp_path / "a"
    assert paths.paths(None).root == tmp_path / "b"
    monkeypatch.delenv(paths.ENVIRONMENT)
    assert paths.paths(None).root == Path(__file__).parents[3] / ".lab"


def test_one_directory_has_one_lab(where: Paths) -> None:
    with where.lock():
        where.state.write_bytes(b'{"lab_id":"labx","pid":42,"guardian":41,"nodes":3,"network":"192.168.20.0/24"}')
        with (
            pytest.raises(LabError, match=r"already up in .* \(supervisor process 42\); .* -m lab down ends it"),
            where.lock(),
        ):
            pytest.fail("two hold the lock")
    with where.lock():
        pass


def test_what_a_supervisor_left_is_read_back_and_garbage_is_not(where: Paths) -> None:
    where.root.mkdir()
    assert where.read_state() is None
    where.state.write_bytes(b"{")
    assert where.read_state() is None
    where.state.write_bytes(b'{"lab_id":"labx","pid":42,"guardian":41,"nodes":3,"network":"192.168.20.0/24"}')
    assert where.read_state() == State(lab_id="labx", pid=42, guardian=41, nodes=3, network="192.168.20.0/24")


def test_without_root_a_lab_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, where: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["--state", str(where.root), "up"]) == 2
    assert (
        capsys.readouterr().err == "lab: the lab needs root to make network namespaces; run it as root, for example with sudo\n"
    )
    assert not where.root.exists()


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda program, **_: None if program == "nft" else "/somewhere")
    with pytest.raises(MissingError, match="needs nft; apt-get install nftables brings it"):
        lifecycle.check_machine("lab123456")


@pytest.mark.parametrize("words", [["status"], ["kubeconfig"], ["kill", "n1"], ["exec", "n1", "--", "true"], ["api", "stop"]])
def test_verbs_that_need_a_lab_say_how_to_get_one(where: Paths, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    where.root.mkdir()
    assert main(["--state", str(where.root), *words]) == 1
    assert "no lab is up" in capsys.readouterr().err


def test_a_command_line_nobody_understands_is_refused(where: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["up", "--net", "192.168.20.1/24"])
    assert "has host bits set; write it like 192.168.20.0/24" in capsys.readouterr().err
    assert main(["--state", str(where.root), "exec", "n1"]) == 1
    assert "say what to run" in capsys.readouterr().err


async def test_requests_are_answered_and_refusals_arrive(where: Paths) -> None:
    where.root.mkdir()

    async def answer(request: control.Request) -> dict[str, object]:
        if request.verb == "no":
            raise LabError(f"not to {request.node}")
        return {"verb": request.verb}

    async def ask(verb: str) -> bytes:
        with short_path(where.control) as path:
            reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b'{"verb":"%s","node":"n1"}\n' % verb.encode())
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return line

    async with control.serving(where, answer):
        assert await ask("yes") == b'{"verb":"yes"}\n'
        assert await ask("no") == b'{"error":"not to n1"}\n'


def test_results_are_sentences() -> None:
    death = NodeDeath(
        run=1,
        service="x/web",
        address="192.168.20.20",
        outage_s=3.2,
        owner_before="n1",
        owner_after="n2",
        cable_pulled=10.0,
        last_good=9.99,
        suspected=11.0,
        declared_dead=13.0,
        takeover=13.1,
        first_garp=None,
        neighbour_updated=13.15,
        first_good=13.19,
    )
    assert str(death) == "run 1: 192.168.20.20 went from n1 to n2, outage 3200 ms"
    assert [round(at, 2) for at, _ in death.timeline()] == [-0.01, 0.0, 1.0, 3.0, 3.1, 3.15, 3.19]
    first = FirstService(run=2, address="a", created=0, assigned=0, first_good=0, assigned_s=0.02, first_good_s=0.05)
    assert re.fullmatch(r"run 2: a in the status after 20 ms, first good answer after 50 ms", str(first))
