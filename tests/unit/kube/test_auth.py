"""Credentials come from where operators keep them, follow their files, and leave nothing behind."""

from __future__ import annotations

import base64
import ssl
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kube.auth import (
    LOOK_EVERY_S,
    Credentials,
    CredentialsError,
    load_client_certificate,
    read_kubeconfig,
    read_service_account,
)
from telemetry.tls import self_signed

POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def account(tmp_path: Path) -> Path:
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text("first\n")
    (folder / "ca.crt").write_text("CA ONE\n")
    (folder / "namespace").write_text("metallb-system\n")
    return folder


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


def replace_file(path: Path, text: str) -> None:
    """As the kubelet does: a new file under the old name."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def test_a_pod_uses_its_service_account(account: Path) -> None:
    credentials = Credentials.from_environment(environment=POD, service_account=account)
    access = credentials.access
    assert (access.server, access.authorization, access.ca) == ("https://10.0.0.1:443", "Bearer first", b"CA ONE")
    assert credentials.namespace() == "metallb-system"


def test_an_ipv6_address_is_put_in_brackets(account: Path) -> None:
    assert read_service_account(account, {"KUBERNETES_SERVICE_HOST": "fd00::1"}).server == "https://[fd00::1]:443"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "token").unlink(), "cannot read .*token"),
        (lambda folder: (folder / "token").write_text("\n"), "token is empty"),
        (lambda folder: (folder / "ca.crt").write_bytes(b"\xff"), "cannot read .*ca.crt"),
    ],
)
def test_a_service_account_that_cannot_be_used_is_named(account: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(account)
    with pytest.raises(CredentialsError, match=message):
        Credentials.from_environment(environment=POD, service_account=account)


def test_a_rotated_token_is_used_after_the_next_look(account: Path) -> None:
    clock = Clock()
    credentials = Credentials.from_environment(environment=POD, service_account=account, clock=clock)
    replace_file(account / "token", "second\n")
    assert not credentials.look()
    clock.now = LOOK_EVERY_S
    assert credentials.look()
    assert credentials.access.authorization == "Bearer second"
    clock.now = 2 * LOOK_EVERY_S
    assert not credentials.look()


def test_a_refused_token_is_read_again_at_once(account: Path) -> None:
    credentials = Credentials.from_environment(environment=POD, service_account=account, clock=Clock())
    assert not credentials.read_again()
    replace_file(account / "token", "second")
    assert credentials.read_again()
    assert credentials.access.authorization == "Bearer second"


def test_a_token_that_cannot_be_read_for_a_moment_leaves_the_old_one(account: Path) -> None:
    clock = Clock()
    credentials = Credentials.from_environment(environment=POD, service_account=account, clock=clock)
    (account / "token").unlink()
    clock.now = LOOK_EVERY_S
    assert not credentials.look()
    assert credentials.access.authorization == "Bearer first"
    assert "token" in credentials.problem
    (account / "token").write_text("second")
    clock.now = 2 * LOOK_EVERY_S
    assert credentials.look()
    assert credentials.problem == ""


def test_a_rotated_ca_is_another_access(account: Path) -> None:
    credentials = Credentials.from_environment(environment=POD, service_account=account, clock=Clock())
    replace_file(account / "ca.crt", "CA TWO")
    assert credentials.read_again()
    assert credentials.access.ca == b"CA TWO"


def test_a_given_kubeconfig_comes_before_the_variable_and_that_before_the_pod(account: Path, tmp_path: Path) -> None:
    given = kubeconfig(tmp_path, user="token: given", name="given")
    variable = kubeconfig(tmp_path, user="token: variable", name="variable")
    environment = POD | {"KUBECONFIG": variable}
    assert Credentials.from_environment(given, environment=environment).access.authorization == "Bearer given"
    assert Credentials.from_environment(environment=environment).access.authorization == "Bearer variable"
    assert Credentials.from_environment(environment=POD, service_account=account).access.authorization == "Bearer first"


def test_without_anything_else_the_config_in_the_home_directory_is_used(tmp_path: Path) -> None:
    (tmp_path / ".kube").mkdir()
    kubeconfig(tmp_path / ".kube", user="token: home")
    assert Credentials.from_environment(environment={"HOME": str(tmp_path)}).access.authorization == "Bearer home"


def test_no_way_to_an_api_server_is_said_with_every_place_that_was_looked_at(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match=r"KUBECONFIG is not set.*KUBERNETES_SERVICE_HOST.*kube/config is missing"):
        Credentials.from_environment(environment={"HOME": str(tmp_path)})


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


def test_files_beside_the_kubeconfig_are_followed(tmp_path: Path) -> None:
    clock = Clock()
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "ca.pem").write_text("CA")
    path = kubeconfig(tmp_path, user="tokenFile: token", cluster="server: 'https://a:1', certificate-authority: ca.pem")
    credentials = Credentials.from_environment(path, environment={}, clock=clock)
    assert (credentials.access.authorization, credentials.access.ca) == ("Bearer first", b"CA")
    assert credentials.namespace() == "mine"
    replace_file(tmp_path / "token", "second\n")
    clock.now = LOOK_EVERY_S
    assert credentials.look()
    assert credentials.access.authorization == "Bearer second"


def test_what_a_cluster_says_of_tls_and_proxies_is_kept(tmp_path: Path) -> None:
    cluster = "server: 'https://a:1', insecure-skip-tls-verify: true, tls-server-name: api, proxy-url: 'http://p:3128'"
    access = read_kubeconfig(kubeconfig(tmp_path, user="token: t", cluster=cluster))
    assert (access.verify, access.tls_server_name, access.proxy) == (False, "api", "http://p:3128")


def test_an_exec_plugin_runs_again_when_its_token_ends(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    plugin.write_text(
        "#!/bin/sh\n"
        f"echo x >> {tmp_path}/runs\n"
        'echo \'{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential",'
        '"status":{"token":"t\'$(wc -l < ' + str(tmp_path) + '/runs)\'","expirationTimestamp":"2020-01-01T00:00:00Z"}}\'\n'
    )
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    clock = Clock()
    user = f"exec: {{apiVersion: client.authentication.k8s.io/v1, command: {plugin}, interactiveMode: Never}}"
    credentials = Credentials.from_environment(kubeconfig(tmp_path, user=user), environment={}, clock=clock)
    assert credentials.access.authorization == "Bearer t1"
    clock.now = LOOK_EVERY_S
    assert credentials.look()
    assert credentials.access.authorization == "Bearer t2"


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


def test_a_client_certificate_is_loaded_from_memory() -> None:
    certificate, key = self_signed()
    before = len(list(Path("/proc/self/fd").iterdir()))
    load_client_certificate(ssl.create_default_context(), certificate, key)
    with pytest.raises(CredentialsError, match="client certificate cannot be used"):
        load_client_certificate(ssl.create_default_context(), certificate, None)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
