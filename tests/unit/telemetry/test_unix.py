"""Sockets deeper than the kernel's limit on paths."""

import socket
from pathlib import Path

from telemetry.unix import short_path


def test_a_socket_can_be_bound_and_reached_at_a_path_of_any_length(tmp_path: Path) -> None:
    path = tmp_path / ("deep" * 20) / ("er" * 20) / "status.sock"
    path.parent.mkdir(parents=True)
    assert len(str(path)) > 107
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        with short_path(path) as short:
            listener.bind(short)
        listener.listen()
        with short_path(path) as short:
            client.connect(short)
        assert path.is_socket()
