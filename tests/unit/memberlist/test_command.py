"""`python -m memberlist join` as an operator types it."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from memberlist.__main__ import main


@asynccontextmanager
async def command(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "memberlist", "join", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_with(process: asyncio.subprocess.Process, what: str) -> dict[str, Any]:
    """Read lines of JSON until one tells of this."""
    assert process.stdout is not None
    async with asyncio.timeout(20):
        while line := await process.stdout.readline():
            found: dict[str, Any] = json.loads(line)
            if found["event"] == what:
                return found
    raise AssertionError(f"the program ended without {what!r}")


async def test_two_commands_see_each_other_come_and_go(tmp_path: Path) -> None:
    key = tmp_path / "secretkey"
    key.write_bytes(b"AAECAwQFBgcICQoLDA0ODw")
    common = ("--key-file", str(key), "-o", "json", "--bind", "127.0.0.1:0")
    async with command(*common, "--name", "a") as a:
        address = (await line_with(a, "listening"))["address"]
        async with command(*common, "--name", "b", "--seed", address) as b:
            joined = await line_with(a, "joined")
            assert (joined["name"], joined["state"], joined["incarnation"]) == ("b", "alive", 1)
            assert (await line_with(b, "asked"))["answered"] == 1
            b.send_signal(signal.SIGTERM)
            assert (await line_with(b, "left"))["rejections"] == {}
            assert await b.wait() == 0
        left = await line_with(a, "left")
        assert (left["name"], left["cause"], left["by"]) == ("b", "left", "b")


async def test_a_seed_that_does_not_answer_is_said_in_one_sentence() -> None:
    async with command("--bind", "127.0.0.1:0", "--name", "a", "--seed", "127.0.0.1:1") as process:
        async with asyncio.timeout(20):
            output, errors = await process.communicate()
        assert process.returncode == 1
        assert b"asked seeds=1 answered=0" in output
        assert errors == b"memberlist: no seed answered; is the address right, and the key the same?\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--bind", "host:1"], "'host:1' is not IP or IP:PORT"),
        (["--bind", "[::1]:x"], "is not IP or IP:PORT"),
        (["--bind", "127.0.0.1", "--delegate-versions", "2"], "'2' is not three numbers"),
        (["--bind", "0.0.0.0"], "set advertise_address"),
        (["--bind", "127.0.0.1:99999"], "bind_port is 99999"),
        (["--bind", "127.0.0.1", "--key-file", "/no/such"], "/no/such"),
        ([], "--bind"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(["join", *arguments])
    except SystemExit as ended:
        status = int(ended.code or 0)
    assert status == 2
    assert text in capsys.readouterr().err


async def test_the_example_ends_with_the_crash_found_out() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "memberlist.example", stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    lines = output.decode().splitlines()
    assert "bert: hears 'hello'" in lines
    assert {"anna: sees carl gone: failed", "bert: sees carl gone: failed"} <= set(lines)
    assert lines[-1] == "left over: anna, bert"


async def test_the_command_takes_a_profile_and_shows_the_members_of_it() -> None:
    common = ("--bind", "127.0.0.1:0", "-o", "json", "--profile", "ring")
    async with command(*common, "--name", "a") as a:
        address = (await line_with(a, "listening"))["address"]
        async with command(*common, "--name", "b", "--seed", address):
            joined = await line_with(a, "joined")
            assert (joined["name"], joined["profile"], joined["meta"]) == ("b", "ring", "")
