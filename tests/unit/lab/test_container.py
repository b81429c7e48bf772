"""Programs in the lab's surroundings: what they see, what they may, how they end."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lab import namespaces, processes
from lab.container import CAPABILITIES, Mount
from lab.processes import Program, Running

pytestmark = pytest.mark.needs("root")


def a_program(where: Path, *argv: str, **members: Any) -> Program:
    scratch = where / "scratch"
    scratch.mkdir(exist_ok=True)
    return Program(argv, scratch, where / "log", **members)


async def printed(where: Path, script: str, **members: Any) -> str:
    """What a shell script prints inside."""
    running = await processes.start(a_program(where, "sh", "-c", script, **members))
    await running.wait()
    return (where / "log").read_text()


async def until(found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 10
    while not (result := found()):
        assert time.monotonic() < deadline, "not within 10 s"
        await asyncio.sleep(0.005)
    return result


async def test_a_program_is_the_first_of_its_own_process_tree(tmp_path: Path) -> None:
    assert await printed(tmp_path, "echo $$; cat /proc/1/comm") == "1\nsh\n"


async def test_volumes_are_where_the_manifest_says_and_the_host_is_untouched(tmp_path: Path) -> None:
    for name in ("key", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "key" / "secret").write_text("psst")
    mounts = [
        Mount(source=str(tmp_path / "key"), target="/etc/lab-test-key/deep", read_only=True),
        Mount(source=str(tmp_path / "run"), target="/run/lab-test", read_only=False),
    ]
    script = (
        "cat /etc/lab-test-key/deep/secret; touch /run/lab-test/made; touch /etc/lab-test-key/deep/x 2>&1; head -c4 /etc/passwd"
    )
    said = await printed(tmp_path, script, mounts=mounts)
    assert said.startswith("psst")
    assert "Read-only file system" in said
    assert said.endswith("root")
    assert (tmp_path / "run" / "made").exists()
    assert not exists("/etc/lab-test-key")
    assert not exists("/run/lab-test")
    assert str(tmp_path) not in mounts_of_this_process()


def exists(path: str) -> bool:
    return Path(path).exists()


def mounts_of_this_process() -> str:
    return Path("/proc/self/mounts").read_text()


async def test_a_volume_that_has_no_place_is_refused(tmp_path: Path) -> None:
    running = await processes.start(
        a_program(tmp_path, "true", mounts=[Mount(source=str(tmp_path), target="/nowhere/x", read_only=False)])
    )
    assert await running.wait() == 127
    assert "the lab mounts only below directories that this machine has" in (tmp_path / "log").read_text()


async def test_only_the_capabilities_that_were_asked_for_are_left(tmp_path: Path) -> None:
    said = await printed(tmp_path, "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status", capabilities=["NET_RAW"])
    assert {int(line.split()[1], 16) for line in said.splitlines()[:2]} == {1 << CAPABILITIES.index("NET_RAW")}
    assert said.splitlines()[2].split() == ["NoNewPrivs:", "1"]


async def test_a_program_that_cannot_be_started_says_so(tmp_path: Path) -> None:
    running = await processes.start(a_program(tmp_path, "/no/such/program"))
    assert await running.wait() == 127
    assert "cannot start /no/such/program: No such file or directory" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -KILL $$ & exec sleep 60", 0)])
async def test_the_exit_status_is_the_programs(tmp_path: Path, script: str, status: int) -> None:
    running = await processes.start(a_program(tmp_path, "sh", "-c", script))
    if status:
        assert await running.wait() == status
        assert not running.alive
        assert running.pid is None
    else:  # Process 1 of a tree does not die by its own signal; its owner's does it.
        pid = await until(lambda: running.pid)
        os.kill(pid, signal.SIGKILL)
        assert await running.wait() == 128 + signal.SIGKILL


async def test_stop_is_polite_first(tmp_path: Path) -> None:
    script = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.01; done"
    running = await started(tmp_path, script)
    assert await running.stop(grace_s=10) == 3
    assert (tmp_path / "log").read_text() == "up\nbye\n"


async def test_stop_does_not_wait_for_ever(tmp_path: Path) -> None:
    running = await started(tmp_path, "trap '' TERM; echo up; while :; do sleep 0.01; done")
    assert await running.stop(grace_s=0.05) == -signal.SIGKILL


async def started(where: Path, script: str) -> Running:
    running = await processes.start(a_program(where, "sh", "-c", script))
    await until(lambda: "up" in (where / "log").read_text())
    return running


async def test_everything_dies_with_the_one_who_started_it(tmp_path: Path) -> None:
    starter = f"""
import asyncio
from pathlib import Path
from lab import processes
async def main():
    here = Path({str(tmp_path)!r})
    await processes.start(processes.Program(("sh", "-c", "sleep 1000 & sleep 1000"), here, here / "log"))
    await asyncio.sleep(1000)
asyncio.run(main())
"""
    marker = str(tmp_path / "container.json").encode()
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", starter)
    pid = await until(lambda: read_pid(tmp_path / "pid"))
    await until(lambda: children(pid))
    family = [pid, *children(pid), *processes_with(marker)]
    parent.kill()
    await parent.wait()
    await until(lambda: not [one for one in family if alive(one)])


def read_pid(file: Path) -> int | None:
    return int(file.read_text()) if file.exists() else None


def stat(pid: int) -> Sequence[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ()


def alive(pid: int) -> bool:
    return bool(stat(pid)) and stat(pid)[0] != "Z"


def children(parent: int) -> list[int]:
    every = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [pid for pid in every if stat(pid)[1:2] == [str(parent)]]


def processes_with(word: bytes) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


async def test_a_program_runs_in_the_network_it_is_given(tmp_path: Path) -> None:
    name = f"labtest-{os.getpid()}"
    namespaces.create(name)
    try:
        assert await printed(tmp_path, "ls /sys/class/net", network=name) == "lo\n"
        with pytest.raises(FileExistsError):
            namespaces.create(name)
        async with namespaces.netlink(name) as route:
            links = [link async for link in await route.link("dump")]
        assert [link.get("ifname") for link in links] == ["lo"]
        namespaces.tcp_socket(name).close()
    finally:
        namespaces.remove(name)
        namespaces.remove_directory()
    with pytest.raises(FileNotFoundError):
        namespaces.tcp_socket(name)
    namespaces.remove(name)


async def test_a_program_has_the_user_and_groups_it_is_given_and_no_capability(tmp_path: Path) -> None:
    script = "id -u; id -G; grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs' /proc/self/status"
    said = await printed(tmp_path, script, user=65534, groups=(0, 2000), capabilities=("NET_RAW",))
    assert said.splitlines()[:2] == ["65534", "0 2000"]
    values = dict(line.split(":\t") for line in said.splitlines()[2:])
    assert {values[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
    assert values["NoNewPrivs"] == "1"


async def test_another_user_dies_with_its_parent_too(tmp_path: Path) -> None:
    running = await processes.start(a_program(tmp_path, "sleep", "1000", user=65534, capabilities=()))
    pid = await until(lambda: running.pid)
    await until(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes())
    running.kill()
    await running.wait()
    await until(lambda: not Path(f"/proc/{pid}").exists())


async def test_a_program_that_acted_as_another_user_is_killed_too(tmp_path: Path) -> None:
    """The kernel then forgets that it should die with its parent."""
    script = f"import os, time; os.seteuid(65534); os.seteuid(0); open('{tmp_path}/acted', 'w').close(); time.sleep(1000)"
    running = await processes.start(a_program(tmp_path, sys.executable, "-c", script))
    pid = await until(lambda: running.pid)
    await until((tmp_path / "acted").exists)
    running.kill()
    await running.wait()
    await until(lambda: not Path(f"/proc/{pid}").exists())


async def test_hidden_directories_show_only_what_is_kept(tmp_path: Path) -> None:
    for name in ("mine", "other"):
        (tmp_path / "state" / name).mkdir(parents=True)
        (tmp_path / "state" / name / "token").write_text(f"token of {name}")
    (tmp_path / "state").chmod(0o700)
    kept = tmp_path / "state" / "mine"
    script = f"cd {tmp_path}/state; ls; cat mine/token; touch x 2>&1"
    said = await printed(tmp_path, script, user=65534, capabilities=(), hide=(tmp_path / "state",), keep=(kept,))
    assert said.startswith("mine\ntoken of mine")
    assert "Permission denied" in said


async def test_where_the_way_is_closed_to_the_user_it_is_opened_to_what_is_kept_alone(tmp_path: Path) -> None:
    clone = tmp_path / "home" / "clone"
    clone.mkdir(parents=True)
    (clone.parent / "secret").write_text("psst")
    (clone / "module").write_text("code")
    clone.parent.chmod(0o700)
    said = await printed(tmp_path, f"cat {clone}/module; ls {clone.parent}", user=65534, capabilities=(), keep=(clone,))
    assert said == "codeclone\n"


async def test_a_read_only_root_leaves_only_volumes_to_write_to(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    mounts = [Mount(source=str(tmp_path / "volume"), target="/run/lab-test", read_only=False)]
    script = f"touch /run/lab-test/x && echo volume; echo > /dev/null && echo null; touch /tmp/x {tmp_path}/x 2>&1"
    said = await printed(tmp_path, script, mounts=mounts, read_only=True)
    assert said.splitlines()[:2] == ["volume", "null"]
    assert said.count("Read-only file system") == 2
    assert (tmp_path / "volume" / "x").exists()


async def test_a_command_beside_a_program_has_its_files_its_user_and_its_capabilities(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir(mode=0o777)
    (tmp_path / "volume").chmod(0o777)
    mounts = [Mount(source=str(tmp_path / "volume"), target="/run/lab-test", read_only=False)]
    program = a_program(
        tmp_path, "sleep", "1000", mounts=mounts, user=65534, groups=(7, 8), capabilities=("NET_RAW",), keep=(tmp_path,)
    )
    running = await processes.start(program)
    pid = await until(lambda: running.pid)
    await until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:2] == [b"sleep", b"1000"])
    said = tmp_path / "volume" / "said"
    script = "(id -u; id -G; grep -E 'CapBnd|CapEff' /proc/self/status) > /run/lab-test/said; exit 3"
    assert await processes.run_beside(running, program, ["sh", "-c", script]) == 3
    assert said.read_text().splitlines() == ["65534", "7 8", f"CapEff:\t{0:016x}", f"CapBnd:\t{1 << 13:016x}"]
    await running.stop(grace_s=5.0)
    with pytest.raises(ProcessLookupError):
        await processes.run_beside(running, program, ["true"])


async def test_a_command_beside_a_program_that_takes_too_long_does_not_keep_the_program_from_ending(tmp_path: Path) -> None:
    program = a_program(tmp_path, "sleep", "1000")
    running = await processes.start(program)
    await until(lambda: running.pid)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await processes.run_beside(running, program, ["sleep", "1000"])
    assert await processes.run_beside(running, program, ["true"]) == 0
    running.kill()
    async with asyncio.timeout(10):
        await running.wait()
