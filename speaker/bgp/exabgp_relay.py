"""The helper that ExaBGP starts: it hands its own pipes to the speaker, then sleeps.

Run by ExaBGP as `python -SE exabgp_relay.py SOCKET`; speaks to supervisor.py. Standard library only, so that it starts at once
and stays small. It lives as long as the speaker does: ExaBGP watches that its helper is alive.
"""

from __future__ import annotations

import os
import socket
import sys


def main(path: str) -> None:
    """Pass standard input and output over the Unix socket at `path`; return when the speaker closes it."""
    with socket.socket(socket.AF_UNIX) as speaker:
        speaker.connect(path)
        socket.send_fds(speaker, [b"F"], [0, 1])
        os.close(0)
        os.close(1)
        speaker.recv(1)


if __name__ == "__main__":
    main(sys.argv[1])
