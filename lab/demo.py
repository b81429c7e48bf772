"""Show the main job as it happens: a Service gets its address, answers from it, and keeps it when its node dies.

`make demo` runs this. Six steps, each with what was expected and what was seen when it fails; then the lab is taken away, unless
it is to be kept. The last line is for programs: `demo: ok service=<ip> ingress=<ip> failover_s=<seconds>`.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

from kube.errors import KubeError
from lab import lifecycle, netns
from lab.images import CLONE
from lab.leftovers import what_is_left
from lab.paths import LAB, LabError, Paths
from lab.scenarios import node_death
from lab.scenarios.stage import SYSTEM, Stage, until
from lab.user import INGRESS_MANIFESTS, MANIFESTS, TUTORIAL

SERVICE: Final = "nginx-service"
INGRESS_NAMESPACE: Final = "ingress-nginx"
INGRESS_SERVICE: Final = "ingress-nginx-controller"
HOST: Final = "cafe.example.com"
SHOPS: Final = Path(__file__).with_name("demo_ingress.yaml")
WAIT_S: Final = 30.0
CURL_S: Final = 10.0


class StepError(LabError):
    """A step did not show what it should."""


class Teller:
    """Prints the story. `step` is what is being done, for the error if there is one."""

    def __init__(self) -> None:
        self.step = ""
        self._number = 0
        self._began = time.monotonic()

    def begin(self, step: str) -> None:
        """Head of a step."""
        self._number += 1
        self.step = f"{self._number} ({step})"
        print(f"\n[{self._number}/6 {time.monotonic() - self._began:5.1f} s] {step}", flush=True)

    def say(self, text: str) -> None:
        """Lines below the head."""
        for line in text.rstrip().splitlines():
            print(f"    {line}", flush=True)


def demo(where: Paths, *, keep: bool) -> int:
    """Run the demo; returns the exit status. Whatever happens, nothing is left behind unless `keep`."""
    teller = Teller()
    signal.signal(signal.SIGTERM, _interrupt)  # As Ctrl-C: what was made is taken away.
    teller.begin("the lab comes up: three nodes, a client, a control plane, each a network namespace on one switch")
    try:
        lifecycle.up(where)
    except LabError as error:  # Nothing is ours to take away: perhaps somebody's lab is up.
        print(f"\ndemo: failed in step {teller.step}: {error}", file=sys.stderr)
        return 1
    try:
        done = asyncio.run(_story(where, teller, keep=keep))
        if not keep:
            lifecycle.down(where)
            _show_nothing_left(where, teller)
    except (LabError, KubeError, TimeoutError, OSError, KeyboardInterrupt) as error:
        print(f"\ndemo: failed in step {teller.step}: {_words(error)}\nlogs: {where.logs}", file=sys.stderr)
        if keep:
            print(f"the lab is still up; {LAB} down ends it", file=sys.stderr)
        else:
            lifecycle.down(where)
        return 1
    if keep:
        print(f"\nthe lab stays up: export KUBECONFIG={where.kubeconfig}; {LAB} down ends it")
    print(f"\n{done}", flush=True)
    return 0


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


async def _story(where: Paths, teller: Teller, *, keep: bool) -> str:
    async with Stage.opened(where) as stage:
        _show_lab(stage, teller)
        await _install(stage, teller)
        address = await _show_service(stage, teller)
        ingress = await _show_ingress(stage, teller)
        death = await _show_death(stage, teller, address)
        await _show_return(stage, teller, death, keep=keep)
        return f"demo: ok service={address} ingress={ingress} failover_s={death.outage_s:.3f}"


def _show_lab(stage: Stage, teller: Teller) -> None:
    for machine in stage.topology.machines:
        teller.say(f"{machine.name:8} {machine.ip!s:16} {machine.mac}   namespace {stage.topology.netns(machine.name)}")
    teller.say(f"API server {stage.kube.server}, with its own CA; kubeconfig {_short(stage.where.kubeconfig)}")
    if stage.user.kubectl is None:
        teller.say("there is no kubectl on this machine: the same files are sent to the API itself")


async def _install(stage: Stage, teller: Teller) -> None:
    teller.begin("a user installs metallb-py, a pool, leave to announce it, and a Service")
    for paths, namespace in ((MANIFESTS, ""), ((TUTORIAL / "iptool.yaml", TUTORIAL / "test_service.yaml"), SYSTEM)):
        files = " ".join(f"-f {_short(path)}" for path in paths)
        teller.say(f"$ kubectl apply{f' -n {namespace}' if namespace else ''} {files}")
        teller.say("\n".join(stage.user.apply(*paths, namespace=namespace)))
        await stage.until_controller_ready()  # It is asked about the pool.


async def _show_service(stage: Stage, teller: Teller) -> str:
    teller.begin(f"{SERVICE} gets its address; the client resolves it by ARP and gets nginx's page")
    await stage.until_speakers_ready()
    address = await stage.address_of(SERVICE, namespace=SYSTEM, limit_s=WAIT_S)
    _show_services(stage, teller, SYSTEM)
    page = await _curl_until(stage, [f"http://{address}/"], lambda answer: "Welcome to nginx!" in answer, "nginx's page")
    title = next((line.strip() for line in page.splitlines() if "<title>" in line), "")
    teller.say(f"client$ curl http://{address}/    {title}")
    teller.say(f"client$ ip neigh show {address}    {_on_client(stage, ['ip', 'neigh', 'show', address]).strip()}")
    owner = await until(
        lambda: stage.owner_by_mac(stage.client.mac_of(address)),
        limit_s=WAIT_S,
        what=f"the MAC address of a node for {address}",
        logs=stage.where.logs,
    )
    teller.say(f"that is {owner}'s")
    return address


async def _show_ingress(stage: Stage, teller: Teller) -> str:
    teller.begin("the bundled ingress gets an address of its own, and routes a host and two paths to two Services")
    stage.user.apply(INGRESS_MANIFESTS, SHOPS)
    address = await stage.address_of(INGRESS_SERVICE, namespace=INGRESS_NAMESPACE, limit_s=WAIT_S)
    _show_services(stage, teller, INGRESS_NAMESPACE)
    for path, words in (("/coffee", "a cup of coffee"), ("/tea", "a pot of tea")):
        asked = ["--header", f"Host: {HOST}", f"http://{address}{path}"]
        answer = await _curl_until(stage, asked, lambda text, words=words: words in text, f"{words!r}")  # type: ignore[misc]
        teller.say(f"client$ curl -H 'Host: {HOST}' http://{address}{path}    {answer.strip()}")
    asked = ["--header", "Host: nobody.example.com", "--write-out", "\n%{http_code}", f"http://{address}/"]
    answer = await _curl_until(
        stage, asked, lambda text: text.endswith("404") and "default backend" in text, "the default backend's 404"
    )
    teller.say(f"client$ curl -H 'Host: nobody.example.com' http://{address}/    {' '.join(answer.split())}")

    def written() -> bool | None:
        status = stage.user.get("Ingress", "cafe", namespace="default").get("status", {})
        return {"ip": address} in status.get("loadBalancer", {}).get("ingress", []) or None

    await until(written, limit_s=WAIT_S, what=f"{address} in the Ingress' status", logs=stage.where.logs)
    teller.say(f"ingress/cafe has {address} in its status")
    return address


async def _show_death(stage: Stage, teller: Teller, address: str) -> node_death.NodeDeath:
    owner = await stage.settled_owner(f"{SYSTEM}/{SERVICE}")
    teller.begin(f"{owner}, which owns {address}, loses power; the client asks 100 times a second")
    death = await node_death.kill_owner(stage, 1, f"{SYSTEM}/{SERVICE}", address)
    for at, words in death.timeline():
        teller.say(f"{at * 1000:+9.1f} ms  {words}")
    teller.say(
        f"outage: {death.outage_s * 1000:.0f} ms, from the last answered connection before the gap to the first after it"
    )
    kept = await stage.address_of(SERVICE, namespace=SYSTEM)
    if kept != address:
        raise StepError(f"expected the Service to keep {address}, seen {kept} in its status")
    teller.say(f"the address in the Service's status is still {kept}")
    return death


async def _show_return(stage: Stage, teller: Teller, death: node_death.NodeDeath, *, keep: bool) -> None:
    teller.begin(f"{death.owner_before} returns{'' if keep else ', and everything is cleaned up'}")
    stage.heal()
    for namespace, name in ((SYSTEM, SERVICE), (INGRESS_NAMESPACE, INGRESS_SERVICE)):
        owned = await stage.address_of(name, namespace=namespace)
        owner = await stage.settled_owner(f"{namespace}/{name}")
        teller.say(f"{namespace}/{name:26} {owned:16} announced by {owner}")


def _show_services(stage: Stage, teller: Teller, namespace: str) -> None:
    if stage.user.kubectl is not None:
        teller.say(f"$ kubectl get services -n {namespace}\n{stage.user.run('get', 'services', '--namespace', namespace)}")
        return
    for service in stage.user.list("Service", namespace=namespace):
        ingress = service["status"].get("loadBalancer", {}).get("ingress", [])
        teller.say(f"{service['metadata']['name']}: {service['spec']['type']} {', '.join(each['ip'] for each in ingress)}")


def _on_client(stage: Stage, command: list[str]) -> str:
    line = netns.enter(stage.topology.netns(stage.topology.client.name), command)
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=CURL_S)
    return done.stdout or done.stderr


async def _curl_until(stage: Stage, words: list[str], good: Callable[[str], bool], what: str) -> str:
    """What curl on the client prints, once it is what it should be."""
    seen = ""

    def look() -> str | None:
        nonlocal seen
        seen = _on_client(stage, ["curl", "--silent", "--show-error", "--max-time", "2", *words])
        return seen if good(seen) else None

    try:
        return await until(look, limit_s=WAIT_S, what=what, logs=stage.where.logs)
    except LabError as error:
        raise StepError(f"{error}; curl {' '.join(words)} says: {seen.strip()[:300]}") from None


def _show_nothing_left(where: Paths, teller: Teller) -> None:
    left = what_is_left(where)
    if left:
        raise StepError(f"expected nothing left of the lab, seen {', '.join(left)}")
    teller.say("the lab is gone: no namespace, no process, no mount, no file but the logs")


def _short(path: Path) -> Path:
    return path.relative_to(CLONE) if path.is_relative_to(CLONE) else path
