"""Unix sockets at paths of any length.

The kernel takes at most 107 bytes for a socket's path, and a Pod's folder may lie deeper than that. Seen from an open
descriptor of its directory every socket has a short path. Called by whoever binds or connects; opens no socket itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Another path of the same socket, short enough to bind or connect to, valid inside of the context.

    Raises:
        OSError: the directory of the socket cannot be opened.

    """
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
