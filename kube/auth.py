"""Where the API server is, and what proves to it who we are.

The files of a service account are read here; a kubeconfig is read by kube.kubeconfig, in a process of its own. Both end in
an Access, and Credentials keeps it fresh: a token, a CA bundle or a client certificate that was rotated on disk is in use
within 10 s, a token at once when the server refuses the old one. KubeClient is the only caller. No secret is logged.
"""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LOOK_EVERY_S: Final = 10.0  # A service account token is renewed at 80 % of its life, which is at least 10 minutes.
EXPIRY_MARGIN_S: Final = 10.0
KUBECONFIG_LIMIT_S: Final = 60.0
"""How long the reading of a kubeconfig may take; an exec plugin may ask another server."""


class CredentialsError(Exception):
    """There is no usable way to the API server. The message names the file or variable and the remedy."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a request needs. Certificates are PEM bytes; `authorization` is the value of that header."""

    server: str
    authorization: str | None = field(default=None, repr=False)
    ca: bytes | None = None
    client_certificate: bytes | None = None
    client_key: bytes | None = field(default=None, repr=False)
    verify: bool = True
    tls_server_name: str | None = None
    proxy: str | None = None
    namespace: str | None = None
    expires_at: float | None = None
    """When the token ends, seconds since the epoch; None when nobody said."""
    files: tuple[Path, ...] = ()
    """What was read: a change in one of them calls for reading again."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What the process that reads a kubeconfig prints: the access, or why there is none."""

    access: Access | None = None
    problem: str = ""

    def encode(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self, enc_hook=str)  # Paths are all that is not JSON.

    @classmethod
    def decode(cls, text: bytes) -> Reading:
        """From JSON.

        Raises:
            msgspec.DecodeError: it is none.

        """
        return msgspec.json.decode(text, type=cls, dec_hook=lambda _, path: Path(path))


class Credentials:
    """An Access that follows its files.

    `read` is called once at the start, and again at need; where that takes long, `again` is what is called then.

    Raises:
        CredentialsError: at construction, when the first reading fails. A later failure keeps the last good reading.

    """

    def __init__(
        self,
        read: Callable[[], Access],
        again: Callable[[], Awaitable[Access]] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._again = again
        self._clock = clock
        self._reading = asyncio.Lock()
        self.access = read()
        self._marks = _marks(self.access.files)
        self._look_at = clock() + LOOK_EVERY_S
        self.problem = ""
        """Why the last reading failed; empty when it did not."""

    @classmethod
    def from_environment(
        cls,
        kubeconfig: str | None = None,
        *,
        environment: Mapping[str, str] = os.environ,
        service_account: Path = SERVICE_ACCOUNT,
        clock: Callable[[], float] = time.monotonic,
    ) -> Credentials:
        """The credentials of this process: the given kubeconfig, $KUBECONFIG, the pod's service account or ~/.kube/config."""
        path = kubeconfig or environment.get("KUBECONFIG", "")
        if path:
            return cls.from_kubeconfig(path, clock=clock)
        if environment.get("KUBERNETES_SERVICE_HOST"):
            return cls(lambda: read_service_account(service_account, environment), clock=clock)
        home = Path(environment.get("HOME", "/root")) / ".kube" / "config"
        if home.exists():
            return cls.from_kubeconfig(str(home), clock=clock)
        raise CredentialsError(
            f"no way to an API server: KUBECONFIG is not set, this is no pod (KUBERNETES_SERVICE_HOST), and {home} is missing"
        )

    @classmethod
    def from_kubeconfig(cls, path: str, *, clock: Callable[[], float] = time.monotonic) -> Credentials:
        """The credentials in a kubeconfig, or in several, separated by colons."""
        return cls(lambda: read_kubeconfig(path), lambda: read_kubeconfig_again(path), clock=clock)

    def namespace(self) -> str | None:
        """The namespace of the service account, or the one in the kubeconfig's context; None if neither says."""
        return self.access.namespace

    async def look(self) -> bool:
        """Read again if it is time to look and a file changed or the token ends; true if the access is another now."""
        now = self._clock()
        if now < self._look_at:
            return False
        self._look_at = now + LOOK_EVERY_S
        expires_at = self.access.expires_at
        ends = expires_at is not None and expires_at - EXPIRY_MARGIN_S <= time.time()
        return await self.read_again(self.access) if ends or _marks(self.access.files) != self._marks else False

    async def read_again(self, old: Access) -> bool:
        """Read now, as when the server refused a token; true if the access is another than the old one.

        Of several requests that were refused the same token one reads, and the others wait for what it finds.
        """
        async with self._reading:
            if self.access == old:
                await self._replace()
            return self.access != old

    async def _replace(self) -> None:
        marks = _marks(self.access.files)
        try:
            access = await self._again() if self._again is not None else self._read()
        except CredentialsError as error:
            self.problem = str(error)  # A file being replaced, perhaps: the next look comes soon, the old access may do.
            return
        self.problem = ""
        self._marks = marks if access.files == self.access.files else _marks(access.files)
        if access != self.access:
            self.access = access


def load_client_certificate(context: ssl.SSLContext, certificate: bytes, key: bytes | None) -> None:
    """Give a context a certificate that is not in a file: `ssl` takes only paths, so the bytes pass through memory files."""
    descriptor = os.memfd_create("client.pem", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, certificate + b"\n" + (key or b""))
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except ssl.SSLError as error:
        raise CredentialsError(f"the client certificate cannot be used: {error}") from error
    finally:
        os.close(descriptor)


def read_service_account(folder: Path, environment: Mapping[str, str]) -> Access:
    """The access of a pod: the kubelet keeps token, ca.crt and namespace in a folder, the address in two variables."""
    host = environment.get("KUBERNETES_SERVICE_HOST", "")
    port = environment.get("KUBERNETES_SERVICE_PORT", "443") or "443"
    if ":" in host:
        host = f"[{host}]"
    token, ca, namespace = folder / "token", folder / "ca.crt", folder / "namespace"
    return Access(
        server=f"https://{host}:{port}",
        authorization=f"Bearer {_text(token)}",
        ca=_text(ca).encode(),
        namespace=_text(namespace) if namespace.exists() else None,
        files=(token, ca),
    )


def _text(path: Path) -> str:
    """The content of a file without the newline that editors and secrets end with."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialsError(f"cannot read {path}: {error}") from error
    if not text:
        raise CredentialsError(f"{path} is empty")
    return text


def read_kubeconfig(path: str) -> Access:
    """The access that a kubeconfig describes; waits for the process that reads it.

    Raises:
        CredentialsError: the file cannot be used.

    """
    try:
        result = subprocess.run(**_reader(path), capture_output=True, check=False, timeout=KUBECONFIG_LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise CredentialsError(_too_slow(path)) from error
    return _access_in(path, result.stdout, result.stderr)


async def read_kubeconfig_again(path: str) -> Access:
    """The same without holding up the event loop.

    Raises:
        CredentialsError: the file cannot be used.

    """
    reader = _reader(path)
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        *reader["args"], stdout=pipe, stderr=pipe, stdin=reader["stdin"], env=reader["env"], process_group=0
    )
    try:
        async with asyncio.timeout(KUBECONFIG_LIMIT_S):
            found, said = await child.communicate()
    except TimeoutError as error:
        raise CredentialsError(_too_slow(path)) from error
    finally:
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)  # With the plugin that it started.
            await child.wait()
    return _access_in(path, found, said)


def _reader(path: str) -> dict[str, Any]:
    """How the process is started that reads a kubeconfig."""
    ours = str(Path(__file__).parents[1])
    known = os.environ.get("PYTHONPATH", "")
    return {
        "args": [sys.executable, "-m", "kube.kubeconfig", path],
        "stdin": subprocess.DEVNULL,
        "env": os.environ | {"PYTHONPATH": f"{ours}{os.pathsep}{known}" if known else ours},
    }


def _access_in(path: str, found: bytes, said: bytes) -> Access:
    """What the process printed.

    Raises:
        CredentialsError: it found no access.

    """
    try:
        reading = Reading.decode(found)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        last = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise CredentialsError(f"kubeconfig {path}: the process that reads it failed: {last or 'it said nothing'}") from error
    if reading.access is None:
        raise CredentialsError(reading.problem)
    return reading.access


def _too_slow(path: str) -> str:
    return f"kubeconfig {path}: its exec plugin did not answer within {KUBECONFIG_LIMIT_S:.0f} s"


def _marks(files: tuple[Path, ...]) -> tuple[tuple[int, int, int] | None, ...]:
    """What changes when a file is written or replaced (the kubelet swaps a symbolic link)."""
    marks: list[tuple[int, int, int] | None] = []
    for path in files:
        try:
            state = path.stat()
        except OSError:
            marks.append(None)
        else:
            marks.append((state.st_mtime_ns, state.st_size, state.st_ino))
    return tuple(marks)
