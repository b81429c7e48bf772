"""A kubeconfig means what kubectl takes it to mean, and reading one leaves nothing behind."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kube.auth import CredentialsError
from kube.kubeconfig import read_kubeconfig
from telemetry.tls import self_signed


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files that must be empty in the end."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def kubeconfig(folder: Path, *, user: str, cluster: str = "server: https://127.0.0.1:6443", name: str = "config") -> str:
    path = folder / name
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: here\n"
        "contexts: [{name: here, context: {cluster: c, user: u, namespace: mine}}]\n"
        f"clusters: [{{name: c, cluster: {{{cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
    )
    return str(path)


def test_embedded_certificates_leave_no_file(scratch: Path, tmp_path: Path) -> None:
    certificate, key = self_signed()
    embedded = {"client-certificate-data": certificate, "client-key-data": key}
    user = ", ".join(f"{name}: {base64.b64encode(content).decode()}" for name, content in embedded.items())
    cluster = f"server: 'https://a:1', certificate-authority-data: {base64.b64encode(certificate).decode()}"
    path = kubeconfig(tmp_path, user=user, cluster=cluster)
    for _ in range(2):  # The loader remembers files of the first time, which are gone.
        access = read_kubeconfig(path)
        assert (access.client_certificate, access.client_key, access.ca) == (certificate, key, certificate)
        assert access.authorization is None
    assert list(scratch.iterdir()) == []


def test_what_a_cluster_says_of_tls_and_proxies_is_kept(tmp_path: Path) -> None:
    cluster = "server: 'https://a:1', insecure-skip-tls-verify: true, tls-server-name: api, proxy-url: 'http://p:3128'"
    access = read_kubeconfig(kubeconfig(tmp_path, user="token: t", cluster=cluster))
    assert (access.verify, access.tls_server_name, access.proxy) == (False, "api", "http://p:3128")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- 1",
        '"text"',
        "a: [",
        "current-context: a",
        "current-context: a\ncontexts: [{name: a, context: {cluster: c}}]\nclusters: [{name: c, cluster: {}}]",
        "current-context: a\ncontexts: [{name: a, context: {cluster: c}}]\nclusters: []",
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_named_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(CredentialsError) as caught:
        read_kubeconfig(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_kubeconfig_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="nowhere does not exist; set KUBECONFIG"):
        read_kubeconfig(str(tmp_path / "nowhere"))


def test_no_secret_is_in_the_text_of_an_access(tmp_path: Path) -> None:
    assert "s3cret" not in repr(read_kubeconfig(kubeconfig(tmp_path, user="token: s3cret")))
