"""The nginx process of the ingress stand-in: starts it, checks a new configuration and lets nginx change to it.

nginx changes without a break: new workers take new connections, old ones end when theirs have. A configuration that nginx
refuses is kept away from it; the one before stays in force.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
import subprocess
from pathlib import Path
from typing import Final

from lab.images import NGINX, nginx_configuration

STREAM_MODULE: Final = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


class RefusedError(ValueError):
    """nginx does not take a configuration; the message is its own."""


class Proxy:
    """nginx with a configuration that changes. Everything it reads and writes is below one directory."""

    def __init__(self, here: Path) -> None:
        self._here = here
        self._written = ""
        self._process: asyncio.subprocess.Process | None = None
        self._started = asyncio.Event()
        for name in ("temporary", "certificates"):
            (here / name).mkdir(parents=True, exist_ok=True)

    def keep(self, pem: bytes) -> str:
        """Store a certificate with its key; returns the path, which is another one for every content."""
        path = self._here / "certificates" / f"{hashlib.sha256(pem).hexdigest()[:32]}.pem"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_bytes(pem)
        return str(path)

    async def serve(self, http: str, stream: str) -> None:
        """Start nginx with a configuration, or let it change to that one.

        Raises:
            RefusedError: nginx does not take it.

        """
        module = f"load_module {STREAM_MODULE};" if stream and STREAM_MODULE.exists() else ""
        text = nginx_configuration(self._here, http, stream=stream, before=module)
        if text == self._written:
            return
        candidate = self._here / "candidate.conf"
        candidate.write_text(text, encoding="utf-8")
        await self._check(candidate)
        candidate.rename(self._here / "nginx.conf")
        if self._process is None:
            command = (NGINX, "-p", str(self._here), "-e", "stderr", "-c", str(self._here / "nginx.conf"))
            self._process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)
            self._started.set()
        else:
            self._process.send_signal(signal.SIGHUP)
        self._written = text

    async def _check(self, file: Path) -> None:
        command = (NGINX, "-t", "-q", "-p", str(self._here), "-e", "stderr", "-c", str(file))
        checking = await asyncio.create_subprocess_exec(*command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        _, complaint = await checking.communicate()
        if checking.returncode:
            text = complaint.decode(errors="replace").strip()
            if '"stream"' in text and not STREAM_MODULE.exists():
                text = f"this nginx cannot pass on TCP and UDP; apt-get install libnginx-mod-stream ({text})"
            raise RefusedError(text)

    async def ended(self) -> int:
        """The exit status of nginx, once it has ended by itself."""
        await self._started.wait()
        assert self._process is not None
        return await self._process.wait()

    async def stop(self) -> None:
        """End nginx once it has answered what it was asked."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGQUIT)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2.0):
                    await self._process.wait()
