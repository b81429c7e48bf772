"""An event loop whose clock only moves when nothing is left to do, and processes in it that end at any await.

Everything in it is a matter of the seed: no socket is read, nothing waits for real, a minute costs what happens in it.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

R = TypeVar("R")


class Process:
    """Everything that is started inside one call of `of`, and how often it has been suspended; it may die at any of these.

    Dying means that nothing of it reaches the world any more (`dead`, which whoever stands for the world has to ask), and
    that `ended` is set, for somebody to clear the tasks away. That is what kill -9 between two instructions looks like.
    """

    running: ContextVar[Process | None] = ContextVar("running", default=None)

    def __init__(self, dies_at: int | None = None) -> None:
        self.dies_at = dies_at
        self.suspended = 0
        self.dead = False
        self.ended = asyncio.Event()

    def of(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start it."""
        context = copy_context()
        context.run(self.running.set, self)
        return asyncio.get_running_loop().create_task(coroutine, name="process", context=context)

    def stepped(self) -> None:
        """One more await was reached."""
        self.suspended += 1
        if self.suspended == self.dies_at:
            self.dead = True
            self.ended.set()


class _Counted(Coroutine[Any, Any, R]):
    """A coroutine that tells its process at every suspension."""

    def __init__(self, inner: Coroutine[Any, Any, R], process: Process) -> None:
        self._inner, self._process = inner, process

    def send(self, value: Any) -> Any:
        result = self._inner.send(value)
        self._process.stepped()
        return result

    def throw(self, *error: Any) -> Any:
        result = self._inner.throw(*error)
        self._process.stepped()
        return result

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, None, R]:
        return self._inner.__await__()


class _Nothing(selectors.SelectSelector):
    """No file is ever ready; waiting for one moves the clock."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everybody waits for something that will never come"
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop."""

    def __init__(self) -> None:
        self._nothing = _Nothing()
        super().__init__(self._nothing)
        self.set_task_factory(_task)
        self.set_exception_handler(_fail)

    def time(self) -> float:
        """Virtual seconds."""
        return self._nothing.now


def _fail(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Nothing may fail unseen."""
    raise SystemExit(f"{context['message']}: {context.get('exception')!r}")


def _task(loop: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> asyncio.Task[Any]:
    context = more.get("context")
    process = Process.running.get() if context is None else context.get(Process.running)
    return asyncio.Task(coroutine if process is None else _Counted(coroutine, process), loop=loop, **more)


def run(main: Callable[[], Coroutine[Any, Any, R]]) -> R:
    """Run it in a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())
