"""Random histories of users, a controller that is killed at any await, and an API server that fails; and what must hold.

The controller is the real one: reflectors, loop, plan, writer and client, in virtual time (virtual_time, wire_to_api). Users
create, change and delete Services and change a pool; requests fail in every way there is; the process dies and starts again.
Reference says what users were promised, in terms of what they can see in the API, and knows nothing of the controller.

    python -m tests.simulation.addresses --runs 20000        # the long form
    python -m tests.simulation.addresses --seed 17 --runs 1  # one of them again
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import random
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from controller import observe
from controller.observe import Stores
from controller.reconcile import Reconciler
from kube.informer import Reflector
from kube.resources import IP_ADDRESS_POOLS, L2_ADVERTISEMENTS, NAMESPACES
from kube.store import generation
from lab.apiserver.store import Change
from tests.simulation.virtual_time import Process, run
from tests.simulation.wire_to_api import Cluster, Wire

OWN: Final = "metallb-system"
POOL_PATH: Final = f"/apis/metallb.io/v1beta1/namespaces/{OWN}/ipaddresspools"
SERVICE_PATH: Final = "/api/v1/namespaces/default/services"
NAMES: Final = ("a", "b", "c", "d")
REACH: Final = {"small": "10.0.0.0-10.0.0.1", "large": "10.0.0.0-10.0.0.2", "other": "10.0.0.1-10.0.0.3"}
"""What pool p may consist of; pool q has one address, and gives it only to those who ask."""
ONLY_ASKED: Final = "10.0.1.0"
CALM_S: Final = 300.0


class Seen(NamedTuple):
    """A Service, as far as promises are about it."""

    uid: str
    wanted: bool
    addresses: frozenset[str]
    asked: str
    pool: str
    sharing: str
    ports: frozenset[int]
    from_pool: str | None

    def with_same_user(self, other: Seen) -> bool:
        return (*self[:2], *self[3:7]) == (*other[:2], *other[3:7])

    def may_share(self, other: Seen) -> bool:
        return bool(self.sharing) and self.sharing == other.sharing and not self.ports & other.ports


class Reference:
    """Who shows what. A Service loses or changes its address only for a cause, and two show one only if they may share it.

    A cause is what a user did since the Service got what it shows: to it, to a Service that then may not share with it, or to
    the pools. At rest every Service has an address that it may have, or there is none.
    """

    def __init__(self) -> None:
        self.shown: dict[str, Seen] = {}
        self.reach: frozenset[str] = frozenset()
        self.by_itself: set[str] = set()
        self.by_others: set[str] = set()
        self.pools_moved = False
        self.former: dict[str, list[Seen]] = {}
        """What users had said of a Service before; the controller may still act on that, and can only mend it then."""

    def happened(self, name: str, now: Seen | None, *, ours: bool) -> None:
        before = self.shown.get(name)
        if now is None:
            self.shown.pop(name, None)
            self.by_itself.discard(name)
            self.by_others.discard(name)
            self.former.pop(name, None)
            return
        if ours:
            assert before is not None, f"{name}: written before it was there"
            assert before.with_same_user(now), f"{name}: the controller changed what only users change"
            caused = self.pools_moved or name in self.by_itself or name in self.by_others
            assert caused or not before.addresses or now.addresses == before.addresses, f"{name} lost {set(before.addresses)}"
            for other, _ in self._clashes(now, now.addresses - before.addresses):
                shared = any(now.may_share(one) for one in self.former.get(other, ()))
                assert shared, f"{name} got {set(now.addresses)} beside {other}"
                self.by_others |= {name, other}
            self.former.pop(name, None)  # It was written on top of what its user had last said.
            if now.addresses:
                self.by_itself.discard(name)
        else:
            self.by_itself.add(name)
            if before is not None:
                self.former.setdefault(name, []).append(before)
            self.by_others.update(other for other, _ in self._clashes(now, now.addresses))
        self.shown[name] = now

    def pools_changed(self, reach: frozenset[str]) -> None:
        self.reach = reach
        self.pools_moved = True  # Until everything is at rest: the controller may hear of it late.

    def at_rest(self) -> None:
        within = {"p": self.reach, "q": frozenset({ONLY_ASKED}), "": self.reach | {ONLY_ASKED}}
        for name, one in self.shown.items():
            others = [seen for other, seen in self.shown.items() if other != name and not one.may_share(seen)]
            taken = {address for other in others for address in other.addresses}
            may_keep = within[one.pool] & ({one.asked} if one.asked else within[one.pool]) if one.wanted else frozenset()
            may_get = may_keep if one.asked or one.pool else may_keep & self.reach  # q is for those who ask.
            assert one.addresses <= may_keep - taken, f"{name} shows {set(one.addresses)} and may keep {may_keep - taken}"
            assert one.addresses or not may_get - taken, f"{name} could have {may_get - taken}"
            expected = "q" if one.addresses == {ONLY_ASKED} else "p" if one.addresses else None
            assert one.from_pool == expected, (name, one)
        self.by_itself.clear()
        self.by_others.clear()
        self.pools_moved = False
        self.former.clear()

    def _clashes(self, one: Seen, addresses: frozenset[str]) -> Iterator[tuple[str, Seen]]:
        return ((name, other) for name, other in self.shown.items() if addresses & other.addresses and not one.may_share(other))


def seen(body: bytes) -> Seen:
    """A Service as the API server has it."""
    document = msgspec.json.decode(body)
    metadata, spec = document["metadata"], document["spec"]
    notes = metadata.get("annotations") or {}
    return Seen(
        metadata["uid"],
        spec["type"] == "LoadBalancer",
        frozenset(entry["ip"] for entry in document["status"]["loadBalancer"].get("ingress") or ()),
        notes.get("metallb.io/loadBalancerIPs", ""),
        notes.get("metallb.io/address-pool", ""),
        notes.get("metallb.io/allow-shared-ip", ""),
        frozenset(port["port"] for port in spec["ports"]),
        notes.get(observe.ALLOCATED_FROM_POOL),
    )


class Silent:
    """Takes Events and log lines."""

    def emit(self, *_: object) -> None:
        pass

    def info(self, _: str, /, **__: object) -> None:
        pass

    debug = warning = error = exception = info


class Controller:
    """One process."""

    def __init__(self, cluster: Cluster, rng: random.Random, *, trouble: float, dies_at: int | None) -> None:
        self.process = Process(dies_at)
        self.wire = Wire(cluster, self.process, rng, trouble=trouble)
        self.stores = Stores()
        self.client = self.wire.client()
        self.reconciler = Reconciler(self.client, self.stores, Silent(), Silent(), namespace=OWN)
        self._rng = rng
        self.task = self.process.of(self._run())

    async def _run(self) -> None:
        stores = self.stores
        kinds: list[tuple[Any, Any, Any, str | None]] = [
            (observe.REDUCED_SERVICES, stores.services, observe.service_fingerprint, None),
            (IP_ADDRESS_POOLS, stores.pools, observe.pool_fingerprint, OWN),
            (L2_ADVERTISEMENTS, stores.l2_advertisements, generation, OWN),
            (NAMESPACES, stores.namespaces, observe.namespace_fingerprint, None),
        ]
        async with asyncio.TaskGroup() as group:
            for resource, store, fingerprint, namespace in kinds:
                reflector: Reflector[Any] = Reflector(
                    self.client, resource, store, dirty=stores.dirty, fingerprint=fingerprint, namespace=namespace, log=Silent(),
                    rng=self._rng,
                )  # fmt: skip
                group.create_task(reflector.run(), name=resource.plural)
            group.create_task(self.reconciler.run(), name="reconcile")
            group.create_task(self.reconciler.writer.run(), name="status-writer")

    async def end(self) -> None:
        self.process.dead = True
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


class History:
    """One history."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster = cluster
        self.rng = random.Random(seed)  # noqa: S311 - a history is its seed
        self.reference = Reference()
        self.controller: Controller | None = None
        self.calm = False
        self.broken: list[AssertionError] = []
        self.crashes = 0
        self.suspended = 0

    async def run(self) -> None:
        """Users act, and everything comes to rest, a few times."""
        self._pool(self.rng.choice(list(REACH)))
        await self._during(self._phases)

    async def _phases(self, keeper: asyncio.Task[None]) -> None:
        for phase in range(self.rng.randint(1, 3)):
            if phase:
                await self._rest(keeper)
            for _ in range(self.rng.randint(1, 6)):
                self._user()
                await self._pause(self.rng.choice((0.0, 0.0, 0.002, 0.05, 1.0, 20.0)), keeper)

    async def _during(self, acts: Callable[[asyncio.Task[None]], Awaitable[None]]) -> None:
        """Users act while the controller dies and comes back; in the end everything is at rest."""
        self.cluster.store.listeners.append(self._changed)
        try:
            keeper = asyncio.create_task(self._keep_running(), name="keeper")
            await acts(keeper)
            await self._rest(keeper)
            keeper.cancel()
            await self._restart_at_rest()
        finally:
            self.cluster.store.listeners.remove(self._changed)
            if self.controller is not None:
                await self.controller.end()
            for name in NAMES:
                self.cluster.delete(f"{SERVICE_PATH}/{name}")

    def _changed(self, storage: str, change: Change) -> None:
        if storage == "services":
            key = (change.now or change.last or change.before).key  # type: ignore[union-attr]  # one of them is there
            if key[0] == "default" and key[1] in NAMES:
                now = None if change.now is None else seen(change.now.body)
                try:
                    self.reference.happened(key[1], now, ours=self.cluster.writer is not None)
                except AssertionError as broken:  # Whose callback this is would swallow it.
                    self.broken.append(broken)

    def _start(self) -> Controller:
        dies_at = int(self.rng.uniform(1, 30) ** self.rng.uniform(1.0, 2.0))
        self.controller = Controller(self.cluster, self.rng, trouble=self._trouble(), dies_at=dies_at)
        if self.calm or self.rng.random() < 0.3:
            self.controller.process.dies_at = None
        if self.calm:
            self.controller.wire.trouble = 0.0
        return self.controller

    def _trouble(self) -> float:
        return self.rng.choice((0.0, 0.1, 0.4))

    async def _keep_running(self) -> None:
        """Start the controller again whenever it has died, for ever."""
        while True:
            controller = self._start()
            await controller.process.ended.wait()
            await controller.end()
            self.crashes += 1
            self.suspended += controller.process.suspended
            await asyncio.sleep(self.rng.choice((0.0, 0.01, 30.0)))

    async def _pause(self, seconds: float, keeper: asyncio.Task[None]) -> None:
        await asyncio.sleep(seconds)
        if keeper.done():
            keeper.result()
        if self.broken:
            raise self.broken[0]

    async def _rest(self, keeper: asyncio.Task[None]) -> None:
        """Let nothing fail any more, and look at what there is in the end."""
        self.calm = True
        if self.controller is not None:
            self.controller.wire.trouble, self.controller.process.dies_at = 0.0, None
        await self._pause(CALM_S, keeper)
        assert self.controller is not None
        self._at_rest(self.controller)
        self.calm = False
        self.controller.wire.trouble = self._trouble()
        if self.rng.random() < 0.7:
            self.controller.process.dies_at = self.controller.process.suspended + self.rng.randint(1, 200)

    def _at_rest(self, controller: Controller) -> None:
        self.reference.at_rest()
        planner = controller.reconciler.planner
        planner.check_invariants()
        assert not controller.reconciler.writer.pending(), controller.reconciler.writer.pending()
        held = {key.partition("/")[2]: {str(one) for one in some} for key, some in planner.ledger.holdings()}
        shown = {name: set(one.addresses) for name, one in self.reference.shown.items() if one.addresses}
        assert held == shown, (held, shown)

    async def _restart_at_rest(self) -> None:
        """A new process writes nothing where nothing has changed."""
        assert self.controller is not None
        await self.controller.end()
        self.calm = True
        before = dict(self.reference.shown)
        controller = self._start()
        await asyncio.sleep(CALM_S)
        self._at_rest(controller)
        assert not self.broken, self.broken
        assert self.reference.shown == before
        assert controller.wire.writes == 0, "a restart wrote something"

    def _user(self) -> None:
        """What a user does."""
        name = self.rng.choice(NAMES)
        there = name in self.reference.shown
        what = self.rng.choice(("set", "set", "set", "delete", "pool", "expire"))
        if what == "set":
            self._set(name)
        elif what == "delete" and there:
            self.cluster.delete(f"{SERVICE_PATH}/{name}")
        elif what == "pool" and self.rng.random() < 0.5:
            self._pool(self.rng.choice(list(REACH)))
        elif what == "expire":
            self.cluster.forget_history()

    def _set(self, name: str) -> None:
        rng = self.rng
        pool = rng.choice(("", "", "", "p", "q"))
        notes = {
            "metallb.io/address-pool": pool,
            "metallb.io/loadBalancerIPs": rng.choice(("", "", "10.0.0.1", "10.0.0.2", ONLY_ASKED)),
            "metallb.io/allow-shared-ip": rng.choice(("", "", "k", "k")),
        }
        self._write(name, rng.choice((80, 81)), notes, kind=rng.choice(("LoadBalancer",) * 4 + ("ClusterIP",)))

    def _write(self, name: str, port: int, notes: dict[str, str], *, kind: str = "LoadBalancer") -> None:
        spec: dict[str, Any] = {"type": kind, "ports": [{"port": port}]}
        if kind == "LoadBalancer":
            spec["allocateLoadBalancerNodePorts"] = False
        change: dict[str, Any] = {"metadata": {"name": name, "annotations": notes}, "spec": spec}
        if name in self.reference.shown:
            self.cluster.patch(f"{SERVICE_PATH}/{name}", change)
        else:
            self.cluster.create(SERVICE_PATH, {"apiVersion": "v1", "kind": "Service", **change})

    def _pool(self, reach: str) -> None:
        """Let pool p be another one; q stays as it is."""
        first, last = (int(ip_address(text)) for text in REACH[reach].split("-"))
        self.reference.pools_changed(frozenset(str(ip_address(number)) for number in range(first, last + 1)))
        if ("metallb-system", "p") in self.cluster.store.shelf("ipaddresspools.metallb.io").objects:
            self.cluster.patch(f"{POOL_PATH}/p", {"spec": {"addresses": [REACH[reach]]}})
            return
        self.cluster.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OWN}})
        for name, ranges, auto in (("p", REACH[reach], True), ("q", f"{ONLY_ASKED}/32", False)):
            spec = {"addresses": [ranges], "autoAssign": auto}
            document = {"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": {"name": name}, "spec": spec}
            self.cluster.create(POOL_PATH, document)


def play(cluster: Cluster, seed: int) -> History:
    """One history from its seed.

    Raises:
        AssertionError: a promise was broken; a note says how to do it again.

    """
    history = History(cluster, seed)
    try:
        run(history.run)
    except Exception as error:
        error.add_note(f"again: python -m tests.simulation.addresses --seed {seed} --runs 1")
        raise
    finally:
        gc.unfreeze()  # The controller freezes what it has when it is ready; here that would be kept for ever.
    return history


class Script(History):
    """A busy minute, always the same, in which the controller dies once: at the await of this number."""

    def __init__(self, cluster: Cluster, dies_at: int) -> None:
        super().__init__(cluster, seed=0)
        self._dies_at: int | None = dies_at

    async def run(self) -> None:
        self._pool("small")
        await self._during(self._minute)

    async def _minute(self, keeper: asyncio.Task[None]) -> None:
        shared = {"metallb.io/allow-shared-ip": "k"}
        for name, port, notes in (("a", 80, {}), ("b", 80, shared), ("c", 81, shared), ("d", 80, {})):
            self._write(name, port, notes)
        await self._pause(2.0, keeper)
        self._write("b", 81, shared)  # It may not share with c any more.
        self.cluster.delete(f"{SERVICE_PATH}/a")
        await self._pause(0.02, keeper)
        self._write("c", 81, {"metallb.io/loadBalancerIPs": "10.0.0.0"})
        self._write("d", 80, {"metallb.io/loadBalancerIPs": "10.0.0.1"})  # What c or b has.
        await self._pause(2.0, keeper)

    def _start(self) -> Controller:
        controller = super()._start()
        controller.wire.trouble = 0.0
        controller.process.dies_at, self._dies_at = self._dies_at, None
        return controller


def main() -> int:
    """Play histories; exit status 1 if one breaks a promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.addresses", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the first history")
    parser.add_argument("--runs", type=int, default=20_000, help="how many histories")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="histories-") as state:
        return _play_all(Cluster(Path(state)), flags.seed, flags.runs)


def _play_all(cluster: Cluster, first: int, runs: int) -> int:
    crashes = suspended = 0
    for seed in range(first, first + runs):
        history = play(cluster, seed)
        crashes += history.crashes
        suspended += history.suspended
        if (seed - first + 1) % 1000 == 0:
            print(f"{seed - first + 1} histories, {crashes} crashes, 0 violations", flush=True)  # noqa: T201 - a command
    print(f"{runs} histories, {crashes} crashes among {suspended} awaits, 0 violations")  # noqa: T201 - a command
    return 0


if __name__ == "__main__":
    sys.exit(main())
