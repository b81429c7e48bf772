"""Deliver frames late: what a kernel without netem needs for a delay. A program of its own in the switch's namespace.

lab.injector starts it, lays a machine's cable through it (lab.netns.detour) and tells it on standard input, as lines of JSON,
which cables there are and how late each is (Cables); it answers each line with "ok" or the error. A delayed cable is a pair of
taps, and each frame that comes in at one leaves by the other when it is due. Taps rather than packet sockets, because the
kernel finishes checksums and cuts big segments before it hands a frame to a tap. When standard input ends, the program ends
and its taps are gone. It knows nothing of bridges, machines or faults, and loses what it cannot keep.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import selectors
import struct
import sys
from collections import deque
from typing import Final

import msgspec

from lab.faults import FAR, LATE

TUNSETIFF: Final = 0x400454CA
IFF_TAP: Final = 0x0002
IFF_NO_PI: Final = 0x1000
LONGEST_FRAME: Final = 65536 + 18
FRAMES_AT_ONCE: Final = 64
FRAMES_KEPT: Final = 100_000
"""On the way in one direction of one cable. More are lost, as in a switch whose buffer is full."""


class Cables(msgspec.Struct, frozen=True):
    """For every delayed cable: seconds for frames from its machine, and for frames to it."""

    late_s: dict[str, tuple[float, float]]


def open_tap(name: str) -> int:
    """A new tap device; closing the descriptor removes it.

    Raises:
        OSError: the kernel has none, or the name is taken.

    """
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class Direction:
    """Frames on their way from one tap to the other."""

    def __init__(self, source: int, target: int, late_s: float) -> None:
        self.late_s = late_s
        self._source = source
        self._target = target
        self._frames: deque[tuple[float, bytes]] = deque()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(source, self._take)

    def close(self) -> None:
        """Lose what is on its way."""
        self._loop.remove_reader(self._source)
        if self._timer is not None:
            self._timer.cancel()

    def _take(self) -> None:
        due = self._loop.time() + self.late_s
        for _ in range(FRAMES_AT_ONCE):
            try:
                frame = os.read(self._source, LONGEST_FRAME)
            except OSError:  # There is no more; or the tap is down, and nothing comes.
                break
            if len(self._frames) < FRAMES_KEPT:
                self._frames.append((due, frame))
        self._deliver()

    def _deliver(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._frames and self._frames[0][0] <= self._loop.time():
            with contextlib.suppress(OSError):  # The tap is down or full.
                os.write(self._target, self._frames.popleft()[1])
        if self._frames:
            self._timer = self._loop.call_at(self._frames[0][0], self._deliver)


class Cable:
    """One delayed cable."""

    def __init__(self, machine: str, late_s: tuple[float, float]) -> None:
        self._taps = [open_tap(FAR + machine)]
        try:
            self._taps.append(open_tap(LATE + machine))
        except OSError:
            os.close(self._taps[0])
            raise
        far, late = self._taps
        self.outward, self.inward = Direction(far, late, late_s[0]), Direction(late, far, late_s[1])

    def close(self) -> None:
        """Remove the taps."""
        for direction in (self.outward, self.inward):
            direction.close()
        for tap in self._taps:
            os.close(tap)


def _follow(cables: dict[str, Cable], wanted: Cables) -> None:
    """Make the cables those that are wanted."""
    for machine in list(cables):
        if machine not in wanted.late_s:
            cables.pop(machine).close()
    for machine, late_s in wanted.late_s.items():
        if machine in cables:
            cables[machine].outward.late_s, cables[machine].inward.late_s = late_s
        else:
            cables[machine] = Cable(machine, late_s)


async def main() -> None:
    """Follow the lines on standard input until it ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    cables: dict[str, Cable] = {}
    while line := await reader.readline():
        try:
            _follow(cables, msgspec.json.decode(line, type=Cables))
        except OSError as error:
            print(f"delayed cables: {error}", flush=True)
        else:
            print("ok", flush=True)


if __name__ == "__main__":
    # select() waits to the microsecond; epoll's timeout counts whole milliseconds.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(main())
