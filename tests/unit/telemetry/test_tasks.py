"""A part that fails is started again; a loop that is held up is noticed."""

import asyncio
import time

import pytest
from prometheus_client import CollectorRegistry

from telemetry import log
from telemetry.tasks import RestartPace, WatchfulSelector, restart_counter, restart_wait_s, run, supervise

QUICK = RestartPace(first_s=0.001, cap_s=0.002)


def test_waits_double_up_to_a_cap() -> None:
    pace = RestartPace()
    assert [restart_wait_s(failures, 0.0, pace) for failures in range(4)] == [0.1, 0.2, 0.4, 0.8]
    assert restart_wait_s(10**9, 0.0, pace) == 30.0
    assert restart_wait_s(10**9, 0.5, pace) == 45.0


async def test_a_part_that_raises_is_started_again_and_counted(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    log.configure("info", component="speaker")
    registry = CollectorRegistry()
    starts = 0

    async def part() -> None:
        nonlocal starts
        starts += 1
        if starts < 3:
            raise ConnectionError("lost")

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = supervise(group, "bgp", part, restarts=restart_counter(registry), pace=QUICK)
        assert task.get_name() == "bgp"
    assert starts == 3
    assert registry.get_sample_value("metallb_task_restarts_total", {"task": "bgp"}) == 2
    assert capsysbinary.readouterr().out.count(b'ConnectionError: lost",') == 2


async def test_a_part_that_ran_long_enough_starts_a_new_row_of_restarts() -> None:
    log.configure("none", component="speaker")
    starts = 0

    async def part() -> None:
        nonlocal starts
        starts += 1
        if starts < 20:
            raise OSError("odd")

    # With an unbroken row the 20th wait would be 2^18 times the first.
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        supervise(group, "part", part, pace=RestartPace(first_s=0.001, cap_s=1e6, good_after_s=0.0))
    assert starts == 20


async def test_cancellation_is_no_failure() -> None:
    begun = asyncio.Event()

    async def part() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = supervise(group, "part", part)
        await begun.wait()
        task.cancel()
    assert task.cancelled()


def test_a_turn_of_the_loop_that_took_too_long_is_reported_with_its_length() -> None:
    slow: list[float] = []

    async def main() -> str:
        await asyncio.sleep(0)
        end = time.perf_counter() + 0.02
        while time.perf_counter() < end:
            pass
        await asyncio.sleep(0)
        return "done"

    assert run(main(), on_slow=slow.append, slow_turn_s=0.02) == "done"
    assert max(slow) >= 0.02


def test_an_idle_loop_is_not_slow() -> None:
    slow: list[float] = []
    selector = WatchfulSelector(0.05, slow.append)
    selector.select(0.1)
    selector.select(0)
    selector.close()
    assert slow == []


def test_a_slow_turn_is_a_debug_line_by_default(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    log.configure("debug", component="speaker")

    async def main() -> None:
        await asyncio.sleep(0)

    run(main(), slow_turn_s=0.0)
    assert b"loop_held_up" in capsysbinary.readouterr().out
