"""A real etcd and kube-apiserver in the place of the lab's own API server, where KUBEBUILDER_ASSETS says where they are.

`python -m lab apiserver --real ...` and the tests' running_server() come here; both see what they see of the lab's own server:
an address on loopback, optionally one inside a network namespace, a CA, an administrator's token and a kubeconfig. With a
namespace both programs run inside it, so that webhooks are reached from where Pods live, and a relay carries the loopback
address there. Of kube-controller-manager only Endpoints are kept, by which the server finds webhooks: what else it does beyond
lab.manager (garbage collection, ending of namespaces, default service accounts) does not happen. The binaries are the user's; this module downloads nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from lab.apiserver.pki import DNS_NAMES, Authority
from lab.apiserver.server import Listen, Served, bind, dialler, remembered, write_kubeconfig
from lab.apiserver.services import API_SERVICE_ADDRESS, RANGES

ENVIRONMENT: Final = "KUBEBUILDER_ASSETS"
READY_S: Final = 90.0
END_S: Final = 10.0
HEALTH_ASKED_EVERY_S: Final = 0.2
_SLICES: Final = "/apis/discovery.k8s.io/v1/endpointslices"
Json = dict[str, Any]


def assets() -> Path | None:
    """The directory with both programs, or None where the environment names none.

    Raises:
        OSError: it names one without them.

    """
    named = os.environ.get(ENVIRONMENT)
    if not named:
        return None
    for program in ("etcd", "kube-apiserver"):
        if not os.access(Path(named) / program, os.X_OK):
            raise OSError(f"{ENVIRONMENT}={named} has no program {program}; setup-envtest brings a directory with both")
    return Path(named)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def etcd_arguments(state: Path, client_port: int, peer_port: int) -> list[str]:
    """The flags of a single etcd member. Writes are not synced: power loss is out of scope, as with the lab's own server."""
    client, peer = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
    return [
        f"--data-dir={state / 'etcd'}", f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync", "--log-level=warn",
    ]  # fmt: skip


def apiserver_arguments(state: Path, etcd_port: int, address: str, port: int) -> list[str]:
    """The flags of the API server, with certificates and tokens from the state directory."""
    pki = state / "pki"
    return [
        f"--etcd-servers=http://127.0.0.1:{etcd_port}", f"--bind-address={address}", f"--secure-port={port}",
        f"--advertise-address={address}", "--endpoint-reconciler-type=none",
        f"--tls-cert-file={pki / 'server.crt'}", f"--tls-private-key-file={pki / 'server.key'}",
        f"--client-ca-file={pki / 'ca.crt'}", f"--token-auth-file={state / 'tokens.csv'}", "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={pki / 'sa.crt'}",
        f"--service-account-signing-key-file={pki / 'sa.key'}",
        f"--service-cluster-ip-range={','.join(str(network) for network in RANGES.values())}",
        "--disable-admission-plugins=ServiceAccount",  # No controller makes the accounts that it would demand of every Pod.
        "--enable-aggregator-routing=true",  # Webhooks are called at their endpoints: no proxy serves this process.
        "--allow-privileged=true", f"--cert-dir={state / 'certs'}", "-v=1",
    ]  # fmt: skip


@contextlib.asynccontextmanager
async def _program(argv: Sequence[str], log: Path, netns: str) -> AsyncIterator[asyncio.subprocess.Process]:
    command = [*(("ip", "netns", "exec", netns) if netns else ()), *argv]
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def _relay(listener: socket.socket, listen: Sequence[Listen], target: tuple[str, int]) -> AsyncIterator[None]:
    """Carry connections of a socket of this namespace to an address in the one listened in."""
    dial = dialler(listen)
    assert dial is not None

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = dial((socket.AF_INET, socket.SOCK_STREAM, 0, "", target))
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, target)
        except OSError:
            sock.close()
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_connection(sock=sock)
        async with asyncio.TaskGroup() as group:
            group.create_task(_pump(reader, far_writer), name="relay-out")
            group.create_task(_pump(far_reader, writer), name="relay-in")

    server = await asyncio.start_server(carry, sock=listener)
    try:
        yield
    finally:
        server.close()


async def _until_ready(url: str, ca: Path, token: str, programs: Sequence[asyncio.subprocess.Process], logs: Path) -> None:
    context = ssl.create_default_context(cafile=str(ca))
    headers = {"Authorization": f"Bearer {token}"}
    try:
        async with asyncio.timeout(READY_S), aiohttp.ClientSession(headers=headers) as session:
            while all(program.returncode is None for program in programs):
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{url}/readyz", ssl=context) as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(HEALTH_ASKED_EVERY_S)
    except TimeoutError:
        pass
    raise OSError(f"etcd and kube-apiserver did not become ready; their logs are in {logs}")


def endpoints_of(slices: Iterable[Json]) -> Json:
    """The subsets of an Endpoints object: a Service's IPv4 EndpointSlices as the API server's own resolver of webhooks reads them."""
    subsets = []
    for each in slices:
        ports = [{k: v for k, v in p.items() if k in {"name", "port", "protocol"} and v} for p in each.get("ports") or ()]
        members = {True: "addresses", False: "notReadyAddresses"}
        subset: Json = {"ports": ports}
        for endpoint in each.get("endpoints") or () if each["addressType"] == "IPv4" else ():
            ready = endpoint.get("conditions", {}).get("ready") is not False
            subset.setdefault(members[ready], []).extend({"ip": address} for address in endpoint["addresses"])
        if len(subset) > 1:
            subsets.append(subset)
    return {"subsets": subsets}


async def _keep_endpoints(url: str, ca: Path, token: str) -> None:
    """Write an Endpoints object for every Service with EndpointSlices, as kube-controller-manager does, until cancelled."""
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(ca)))
    async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {token}"}, connector=connector) as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                await _mirror_slices(session)
            await asyncio.sleep(HEALTH_ASKED_EVERY_S)


async def _mirror_slices(session: aiohttp.ClientSession) -> None:
    known: dict[tuple[str, str], dict[str, Json]] = {}
    timeout = aiohttp.ClientTimeout(total=None)
    async with session.get(_SLICES, params={"watch": "1"}, timeout=timeout) as answer:
        async for line in answer.content:
            event = msgspec.json.decode(line)
            metadata = event["object"].get("metadata") or {}
            owner = (metadata.get("namespace", ""), (metadata.get("labels") or {}).get("kubernetes.io/service-name", ""))
            if event["type"] in {"ADDED", "MODIFIED"}:
                known.setdefault(owner, {})[metadata["name"]] = event["object"]
            elif event["type"] == "DELETED":
                known.get(owner, {}).pop(metadata["name"], None)
            if not all(owner):
                continue
            name = {"namespace": owner[0], "name": owner[1]}
            body = {"apiVersion": "v1", "kind": "Endpoints", "metadata": name, **endpoints_of(known.get(owner, {}).values())}
            path = f"/api/v1/namespaces/{owner[0]}/endpoints/{owner[1]}"
            await session.patch(
                path, data=msgspec.json.encode(body), params={"fieldManager": "lab", "force": "true"},
                headers={"Content-Type": "application/apply-patch+yaml"},
            )  # fmt: skip


async def start(programs: Path, listen: Sequence[Listen], state: Path) -> Served:
    """Bring both programs up over a state directory; the address of the first `listen` is the one on loopback.

    Raises:
        OSError: they did not become ready, or an address cannot be bound.

    """
    pki, logs = Authority(state / "pki"), state / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    here, inside = listen[0], next((entry for entry in listen if entry.netns), None)
    port = here.port or int(remembered(state / "port", str(_free_port())))
    token = remembered(state / "token", secrets.token_hex(24))
    (state / "tokens.csv").touch(mode=0o600)
    (state / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n', encoding="utf-8")
    addresses = {"127.0.0.1", API_SERVICE_ADDRESS, *(entry.address for entry in listen)}
    pki.issue("server", "kube-apiserver", names=DNS_NAMES, addresses=addresses)
    pki.issue("sa", "service-accounts")
    netns = inside.netns if inside else ""
    client_port, peer_port = (2379, 2380) if inside else (_free_port(), _free_port())
    async with contextlib.AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(
            _program([str(programs / "etcd"), *etcd_arguments(state, client_port, peer_port)], logs / "etcd.log", netns)
        )
        address, bound = (inside.address, inside.port) if inside else (here.address, port)
        arguments = apiserver_arguments(state, client_port, address, bound)
        server = await stack.enter_async_context(
            _program([str(programs / "kube-apiserver"), *arguments], logs / "kube-apiserver.log", netns)
        )
        if inside:
            await stack.enter_async_context(_relay(bind(Listen(here.address, port)), listen, (address, bound)))
        url = f"https://{here.address}:{port}"
        await _until_ready(url, pki.certificate_path, token, (etcd, server), logs)
        mirror = asyncio.create_task(_keep_endpoints(url, pki.certificate_path, token), name="endpoints")
        stack.callback(mirror.cancel)
        kubeconfig = write_kubeconfig(state, url, pki.certificate_path.read_bytes(), token)
        return Served(url, pki.certificate_path, token, kubeconfig, stack.pop_all())
    raise AssertionError("the block above returns")
