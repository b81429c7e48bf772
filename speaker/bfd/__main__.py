"""The BFD process: `python -m speaker.bfd`, started by the speaker (child.py), spoken to over standard input and output.

Reads orders and writes news (messages.py), one JSON object a line. When its input ends it says good-bye to all peers and
exits with 0; so it never outlives the speaker. Exit status 1 when its ports cannot be had.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
from typing import Final

import msgspec

from speaker.bfd import messages
from speaker.bfd.engine import Engine
from speaker.bfd.hub import Forget, Path, Report
from speaker.bfd.messages import Ask, Fault, News, Over, PathName, Ready, Sessions, SessionStatus, StateChanged, Status
from speaker.bfd.packet import Diagnostic, State

FAREWELL_S: Final = 1.0
_PRIORITY: Final = -10
_MS: Final = 1000.0


def main() -> int:
    """Run until the input ends; return the exit status."""
    with contextlib.suppress(OSError):  # Only with CAP_SYS_NICE; without it detection times below 150 ms are risky.
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
    gc.freeze()
    return asyncio.run(_run())


async def _run() -> int:
    def report(effect: Report | Forget) -> None:
        name = PathName.of(effect.path)
        _say(Over(name) if isinstance(effect, Forget) else _changed(name, effect))

    engine = Engine(report, lambda path, problem: _say(Fault(PathName.of(path), problem)))
    try:
        engine.start()
    except OSError as fault:
        sys.stderr.write(
            f"bfd: ports 3784 and 4784 cannot be had: {fault.strerror or fault}; does another BFD daemon run here?\n"
        )
        return 1
    try:
        _say(Ready(os.getpid()))
        async for line in await _lines():
            _obey(engine, line)
        await engine.farewell(FAREWELL_S)
    finally:
        engine.close()
    return 0


def _obey(engine: Engine, line: bytes) -> None:
    try:
        order = messages.decode_order(line)
        wanted = [session.wanted for session in order.sessions] if isinstance(order, Sessions) else []
    except (msgspec.DecodeError, ValueError) as wrong:
        sys.stderr.write(f"bfd: not an order: {wrong}\n")
        return
    match order:
        case Sessions():
            engine.apply(wanted)
        case Ask():
            _say(_status(engine))


async def _lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=16 * 1024 * 1024)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


def _say(news: News) -> None:
    with contextlib.suppress(BrokenPipeError):  # The speaker is gone; the end of the input says so as well.
        sys.stdout.buffer.write(messages.encode(news) + b"\n")
        sys.stdout.buffer.flush()


def _changed(name: PathName, report: Report) -> StateChanged:
    change = report.change
    return StateChanged(
        path=name,
        state=_word(change.state),
        before=_word(change.before),
        diagnostic=_reason(change.diagnostic),
        peer_diagnostic=_reason(change.peer_diagnostic),
    )


def _word(state: State) -> str:
    return state.name.lower()


def _reason(diagnostic: int) -> str:
    try:
        return Diagnostic(diagnostic).name.lower()
    except ValueError:
        return f"reserved_{diagnostic}"


def _status(engine: Engine) -> Status:
    return Status(
        sessions=tuple(_session_status(engine, path) for path in engine.hub.sessions),
        refused={refusal.value: count for refusal, count in sorted(engine.hub.refused.items())},
    )


def _session_status(engine: Engine, path: Path) -> SessionStatus:
    session, tally = engine.hub.sessions[path], engine.hub.tallies[path]
    return SessionStatus(
        path=PathName.of(path),
        state=_word(session.state),
        diagnostic=_reason(session.diagnostic),
        peer_state=_word(session.peer_state),
        peer_diagnostic=_reason(session.peer_diagnostic),
        transmit_interval_ms=session.transmit_interval_us / _MS,
        detection_time_ms=session.detection_time_us / _MS,
        peer_demands=session.peer_demands,
        packets_in=tally.packets_in,
        packets_out=tally.packets_out,
        ups=tally.ups,
        downs=tally.downs,
        longest_gap_ms=round(tally.longest_gap_s * _MS, 1),
    )


if __name__ == "__main__":
    sys.exit(main())
