"""Where the API server is, and what proves to it who we are.

The `kubernetes` package reads a kubeconfig (contexts, merged files, tokens, exec plugins, embedded certificates); the files
of a service account are read here. Both end in an Access, and Credentials keeps it fresh: a token, a CA bundle or a client
certificate that was rotated on disk is in use within 10 s, a token at once when the server refuses the old one.
KubeClient is the only caller. No secret is logged, and nothing read here stays behind in a temporary file.
"""

from __future__ import annotations

import os
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import yaml
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.kube_config import KubeConfigLoader, KubeConfigMerger

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LOOK_EVERY_S: Final = 10.0  # A service account token is renewed at 80 % of its life, which is at least 10 minutes.
EXPIRY_MARGIN_S: Final = 10.0


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


class Credentials:
    """An Access that follows its files.

    Raises:
        CredentialsError: at construction, when the first reading fails. A later failure keeps the last good reading.

    """

    def __init__(self, read: Callable[[], Access], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
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
            return cls(lambda: read_kubeconfig(path), clock=clock)
        if environment.get("KUBERNETES_SERVICE_HOST"):
            return cls(lambda: read_service_account(service_account, environment), clock=clock)
        home = Path(environment.get("HOME", "/root")) / ".kube" / "config"
        if home.exists():
            return cls(lambda: read_kubeconfig(str(home)), clock=clock)
        raise CredentialsError(
            f"no way to an API server: KUBECONFIG is not set, this is no pod (KUBERNETES_SERVICE_HOST), and {home} is missing"
        )

    def namespace(self) -> str | None:
        """The namespace of the service account, or the one in the kubeconfig's context; None if neither says."""
        return self.access.namespace

    def look(self) -> bool:
        """Read again if it is time to look and a file changed or the token ends; true if the access is another now."""
        now = self._clock()
        if now < self._look_at:
            return False
        self._look_at = now + LOOK_EVERY_S
        expires_at = self.access.expires_at
        ends = expires_at is not None and expires_at - EXPIRY_MARGIN_S <= time.time()
        return self.read_again() if ends or _marks(self.access.files) != self._marks else False

    def read_again(self) -> bool:
        """Read now, as when the server refused our token; true if the access is another now."""
        marks = _marks(self.access.files)
        try:
            access = self._read()
        except CredentialsError as error:
            self.problem = str(error)  # A file being replaced, perhaps: the next look comes soon, the old access may do.
            return False
        self.problem = ""
        self._marks = marks if access.files == self.access.files else _marks(access.files)
        changed = access != self.access
        self.access = access
        return changed


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
    """The access that the current context of a kubeconfig (or of several, separated by colons) describes.

    An exec plugin runs while this is called, and again when its token ends; it holds up the event loop for that long.
    """
    try:
        merged = KubeConfigMerger(path).config
        if merged is None:
            raise CredentialsError(f"kubeconfig {path} does not exist; set KUBECONFIG to one that does")
        return _loaded(merged, path)
    except (ConfigException, yaml.YAMLError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        # What the loader raises depends on where in the file the fault is; the cause is in the text.
        raise CredentialsError(f"kubeconfig {path}: {' '.join(str(error).split())}") from error


def _loaded(merged: Any, path: str) -> Access:
    read = SimpleNamespace(api_key={})
    with tempfile.TemporaryDirectory() as scratch:  # Embedded certificates pass through files that must not stay.
        loader = KubeConfigLoader(merged, config_base_path=None, temp_file_path=scratch)
        loader.load_and_set(read)
        ca = _file(getattr(read, "ssl_ca_cert", None))
        certificate = _file(getattr(read, "cert_file", None))
        key = _file(getattr(read, "key_file", None))
    if not hasattr(read, "host"):
        raise CredentialsError(f"kubeconfig {path}: the cluster of the current context has no server")
    context = merged["contexts"].get_with_name(loader.current_context["name"])["context"]
    nodes = [merged["clusters"].get_with_name(context["cluster"])["cluster"]]
    user = context.safe_get("user")
    if user:
        nodes.append(merged["users"].get_with_name(user)["user"])
    names = ("certificate-authority", "tokenFile", "client-certificate", "client-key")
    beside = [
        Path(node.path).absolute().parent / node.safe_get(name) for node in nodes for name in names if node.safe_get(name)
    ]
    authorization = read.api_key.get("BearerToken")
    expiry = getattr(loader, "expiry", None)
    return Access(
        server=read.host,
        authorization=authorization.strip() if authorization else None,
        ca=ca,
        client_certificate=certificate,
        client_key=key,
        verify=getattr(read, "verify_ssl", True),
        tls_server_name=getattr(read, "tls_server_name", None),
        proxy=getattr(read, "proxy", None),
        namespace=context.safe_get("namespace"),
        expires_at=expiry.timestamp() if isinstance(expiry, datetime) else _epoch(expiry),
        files=(*(Path(part).expanduser() for part in path.split(":") if part), *beside),
    )


def _file(path: str | None) -> bytes | None:
    return Path(path).read_bytes() if path else None


def _epoch(text: object) -> float | None:
    """Seconds since the epoch of an RFC 3339 time in UTC."""
    if not isinstance(text, str) or not text:
        return None
    return datetime.fromisoformat(text).astimezone(UTC).timestamp()


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
