"""A kubeconfig, read by the official package: contexts, merged files, tokens, exec plugins, OIDC, embedded certificates.

`python -m kube.kubeconfig PATH` prints the access as JSON. kube.auth runs it as a process of its own, because the package
costs a daemon 25 MiB that it never needs again, and because an exec plugin may take its time. Nothing else imports this
module, and nothing read here stays behind in a temporary file.
"""

from __future__ import annotations

import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.kube_config import KubeConfigLoader, KubeConfigMerger

from kube.auth import Access, CredentialsError, Reading


def read_kubeconfig(path: str) -> Access:
    """The access that the current context of a kubeconfig (or of several, separated by colons) describes.

    An exec plugin runs while this is called.

    Raises:
        CredentialsError: the file cannot be used, or the plugin failed.

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


def main() -> None:
    """Print what a kubeconfig says; exit status 1 if it cannot be used."""
    try:
        reading = Reading(access=read_kubeconfig(sys.argv[1]))
    except CredentialsError as error:
        reading = Reading(problem=str(error))
    sys.stdout.buffer.write(reading.encode())
    sys.exit(0 if reading.access else 1)


if __name__ == "__main__":
    main()
