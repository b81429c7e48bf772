"""Credentials come from where operators keep them, follow their files, and leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import ssl
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from kube.auth import (
    LOOK_EVERY_S,
    Credentials,
    CredentialsError,
    load_client_certificate,
    read_kubeconfig,
    read_kubeconfig_again,
    read_service_account,
)
from telemetry.tls import self_signed
from tests.unit.kube.test_kubeconfig import kubeconfig

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


async def test_a_rotated_token_is_used_after_the_next_look(account: Path) -> None:
    clock = Clock()
    credentials = Credentials.from_environment(environment=POD, service_account=account, clock=clock)
    replace_file(account / "token", "second\n")
    assert not await credentials.look()
    clock.now = LOOK_EVERY_S
    assert await credentials.look()
    assert credentials.access.authorization == "Bearer second"
    clock.now = 2 * LOOK_EVERY_S
    assert not await credentials.look()


async def test_a_refused_token_is_read_again_at_once(account: Path) -> None:
    credentials = Credentials.from_environment(environment=POD, service_account=account, clock=Clock())
    assert not await credentials.read_again(credentials.access)
    replace_file(account / "token", "second")
    assert await credentials.read_again(credentials.access)
    assert credentials.access.authorization == "Bearer second"


async def test_a_token_that_cannot_be_read_for_a_moment_leaves_the_old_one(account: Path) -> None:
    clock = Clock()
    credentials = Credentials.from_environment(environment=POD, service_account=account, clock=clock)
    (account / "token").unlink()
    clock.now = LOOK_EVERY_S
    assert not await credentials.look()
    assert credentials.access.authorization == "Bearer first"
    assert "token" in credentials.problem
    (account / "token").write_text("second")
    clock.now = 2 * LOOK_EVERY_S
    assert await credentials.look()
    assert credentials.problem == ""


async def test_a_rotated_ca_is_another_access(account: Path) -> None:
    credentials = Credentials.from_environment(environment=POD, service_account=account, clock=Clock())
    replace_file(account / "ca.crt", "CA TWO")
    assert await credentials.read_again(credentials.access)
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


async def test_files_beside_the_kubeconfig_are_followed(tmp_path: Path) -> None:
    clock = Clock()
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "ca.pem").write_text("CA")
    path = kubeconfig(tmp_path, user="tokenFile: token", cluster="server: 'https://a:1', certificate-authority: ca.pem")
    credentials = Credentials.from_environment(path, environment={}, clock=clock)
    assert (credentials.access.authorization, credentials.access.ca) == ("Bearer first", b"CA")
    assert credentials.namespace() == "mine"
    replace_file(tmp_path / "token", "second\n")
    clock.now = LOOK_EVERY_S
    assert await credentials.look()
    assert credentials.access.authorization == "Bearer second"


def an_exec_plugin(folder: Path, *first: str) -> str:
    """A kubeconfig whose plugin says t1, t2, ... and that every token has ended; what it does first is given."""
    plugin = folder / "plugin"
    lines = [
        "#!/bin/sh",
        f"echo x >> {folder}/runs",
        *first,
        'echo \'{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential",'
        '"status":{"token":"t\'$(wc -l < ' + str(folder) + '/runs)\'","expirationTimestamp":"2020-01-01T00:00:00Z"}}\'',
    ]
    plugin.write_text("\n".join(lines) + "\n")
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    return kubeconfig(
        folder, user=f"exec: {{apiVersion: client.authentication.k8s.io/v1, command: {plugin}, interactiveMode: Never}}"
    )


async def test_an_exec_plugin_runs_again_when_its_token_ends(tmp_path: Path) -> None:
    clock = Clock()
    credentials = Credentials.from_environment(an_exec_plugin(tmp_path), environment={}, clock=clock)
    assert credentials.access.authorization == "Bearer t1"
    clock.now = LOOK_EVERY_S
    assert await credentials.look()
    assert credentials.access.authorization == "Bearer t2"


async def test_an_exec_plugin_does_not_hold_up_the_loop_and_runs_once_for_all_who_wait(tmp_path: Path) -> None:
    """From its second run on the plugin waits for a line that only this loop can write."""
    os.mkfifo(pipe := tmp_path / "pipe")
    path = an_exec_plugin(tmp_path, f"[ $(wc -l < {tmp_path}/runs) = 1 ] || read line < {pipe}")
    credentials = Credentials.from_environment(path, environment={}, clock=Clock())
    old = credentials.access
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        waiting = [group.create_task(credentials.read_again(old), name=f"request-{number}") for number in range(3)]
        while True:
            await asyncio.sleep(0.005)
            try:
                descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:
                continue  # The plugin does not read yet.
            break
        os.write(descriptor, b"go on\n")
        os.close(descriptor)
    assert [task.result() for task in waiting] == [True, True, True]
    assert credentials.access.authorization == "Bearer t2"


def is_running(pid: str) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and " Z " not in state.read_text()


async def test_a_plugin_that_is_waited_for_no_more_is_ended(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    path = an_exec_plugin(tmp_path, f"echo $$ > {tmp_path}/new && mv {tmp_path}/new {tmp_path}/pid", f"read line < {pipe}")
    async with asyncio.timeout(20):
        task = asyncio.create_task(read_kubeconfig_again(path), name="request")
        while not (tmp_path / "pid").exists():  # noqa: ASYNC110 - a process of its own has no event
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while is_running((tmp_path / "pid").read_text().strip()):  # noqa: ASYNC110 - the same
            await asyncio.sleep(0.005)


def test_a_kubeconfig_that_cannot_be_read_is_told_by_the_process_that_reads_it(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="nowhere does not exist; set KUBECONFIG"):
        Credentials.from_environment(str(tmp_path / "nowhere"), environment={})


def test_a_reader_that_dies_is_named_with_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "yaml.py").write_text("raise SystemExit('no yaml here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(CredentialsError, match="the process that reads it failed: no yaml here"):
        read_kubeconfig(kubeconfig(tmp_path, user="token: t"))


def test_a_client_certificate_is_loaded_from_memory() -> None:
    certificate, key = self_signed()
    before = len(list(Path("/proc/self/fd").iterdir()))
    load_client_certificate(ssl.create_default_context(), certificate, key)
    with pytest.raises(CredentialsError, match="client certificate cannot be used"):
        load_client_certificate(ssl.create_default_context(), certificate, None)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
