"""Write what passes a machine's cable to a file, with dumpcap, and read such files back.

Called by `lab capture`, the chaos run and tests. Times in a file are the wall clock's; read() turns them into CLOCK_MONOTONIC, the
clock of all logs, which is right for as long as nobody sets the clock in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from lab import netns
from lab.frames import Frame
from lab.frames import read as read_frame
from lab.paths import LabError
from lab.processes import BASE_PATH
from lab.topology import Topology

START_S: Final = 10.0
END_S: Final = 5.0
DRAIN_S: Final = 0.5
"""dumpcap takes frames from the kernel every 0.25 s, and none of those that wait there when it is told to end."""
ANNOUNCEMENTS: Final = "arp or (icmp6 and (ip6[40] == 135 or ip6[40] == 136))"
"""A filter for the frames that say who has an address."""


def command(
    topology: Topology, machine: str, file: Path, *, for_s: float | None = None, count: int | None = None, only: str = ""
) -> list[str]:
    """The command line that captures at a machine's eth0 until interrupted, for so long, or for so many frames.

    Raises:
        TopologyError: there is no such machine.
        LabError: this machine has no dumpcap.

    """
    if shutil.which("dumpcap", path=BASE_PATH) is None:
        raise LabError("capture needs dumpcap; apt-get install tshark brings it")
    words = ["dumpcap", "-q", "-P", "-i", netns.NODE_LINK, "-w", str(file)]
    words += ["-a", f"duration:{for_s:g}"] if for_s is not None else []
    words += ["-c", str(count)] if count is not None else []
    words += ["-f", only] if only else []
    return netns.enter(topology.netns(topology.machine(machine).name), words)


@contextlib.asynccontextmanager
async def capturing(topology: Topology, machine: str, file: Path, *, only: str = "") -> AsyncIterator[None]:
    """Capture for as long as the body runs; the file is complete afterwards. Errors as in command(), or it does not start."""
    process = await asyncio.create_subprocess_exec(
        *command(topology, machine, file, only=only), stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        await _until_started(process, machine)
        yield
    finally:
        if process.returncode is None:
            await asyncio.sleep(DRAIN_S)
            process.terminate()
        try:
            async with asyncio.timeout(END_S):
                await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _until_started(process: asyncio.subprocess.Process, machine: str) -> None:
    assert process.stderr is not None
    said: list[str] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_S):
            while line := (await process.stderr.readline()).decode(errors="replace").strip():
                if line.startswith("File:"):
                    return
                said.append(line)
    raise LabError(f"no capture at {machine}: {' '.join(said) or 'dumpcap does not start'}")


def read(file: Path) -> Iterator[Frame]:
    """The frames of a capture that lab.frames knows, in the file's order; a frame that was cut off at the end is left out.

    Raises:
        LabError: this is no capture in the pcap format.

    """
    from scapy.error import Scapy_Exception  # noqa: PLC0415 - Half a second that other verbs need not pay.
    from scapy.utils import RawPcapReader  # noqa: PLC0415 - As above.

    behind = time.time() - time.monotonic()
    try:
        with file.open("rb") as stored, RawPcapReader(stored) as frames:  # It leaves open what it refuses.
            if not hasattr(frames, "nano"):
                raise LabError(f"{file} is a pcapng file; this reads pcap, as `capture` writes it")
            parts = 1e9 if frames.nano else 1e6
            for content, meta in frames:
                found = read_frame(content, at=meta.sec + meta.usec / parts - behind)
                if found is not None:
                    yield found
    except (Scapy_Exception, OSError) as error:
        raise LabError(f"{file} cannot be read as a capture: {error}") from error
