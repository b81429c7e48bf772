"""Outlive the supervisor and take away what it left, however it ended. The process that `python -m lab supervise` is at first.

It forks before the cluster is loaded, so it is small; the child is the supervisor. When the child has been killed, the guardian
ends what outlived it (as its subreaper it is their parent now) and clears the rest. When the guardian is killed, the kernel tells the child
to end (PR_SET_PDEATHSIG), which then clears up itself. Only when both are killed at once something stays until the next `up` or
`down` in the same directory. It refuses to restart anything: a lab that was killed is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from lab import leftovers
from lab.container import PR_SET_PDEATHSIG
from lab.paths import LabError, Paths
from lab.topology import lab_id

PR_SET_CHILD_SUBREAPER: Final = 36
_PASSED_ON: Final = (signal.SIGTERM, signal.SIGINT)


def guarded(where: Paths, supervise: Callable[[], int]) -> int:
    """Run the supervisor in a child and return its exit status, with nothing of the lab left but its logs."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    guardian = os.getpid()
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    child = os.fork()
    if child == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
        return supervise() if os.getppid() == guardian else 1
    for number in _PASSED_ON:
        signal.signal(number, lambda received, _: os.kill(child, received))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    _be_silent()
    _, status = os.waitpid(child, 0)
    _end_orphans()
    if os.WIFSIGNALED(status):
        with contextlib.suppress(LabError), where.lock():  # Whoever holds it builds or clears the same lab.
            leftovers.clear(where, lab_id(where.root))
        print(f"lab: the supervisor was killed by signal {os.WTERMSIG(status)}; what it left is cleared", file=sys.stderr)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _end_orphans() -> None:
    """Kill what the supervisor started and left, until there is none."""
    with contextlib.suppress(ChildProcessError):
        while True:
            for process in Path("/proc").glob("[0-9]*/stat"):
                with contextlib.suppress(OSError):
                    # "pid (name) state parent …"; the name may hold anything.
                    parent = int(process.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
                    if parent == os.getpid():
                        os.kill(int(process.parent.name), signal.SIGKILL)
            os.waitpid(-1, 0)


def _be_silent() -> None:
    """Whoever reads the supervisor's standard output must see its end when the supervisor ends."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, sys.stdout.fileno())
    os.close(silence)
