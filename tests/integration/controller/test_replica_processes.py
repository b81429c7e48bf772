"""Two controller processes: the one that waits has full caches and answers webhooks; when the leader is killed it goes on."""

from __future__ import annotations

import signal
from pathlib import Path

from controller.run import LEASE
from kube.errors import NotFound
from kube.resources import LEASES
from tests.builders import NAMESPACE
from tests.integration.controller.hooked import COMMUNITIES, a_free_port, hooked
from tests.integration.controller.test_main import ended, process
from tests.unit.controller.cluster import Cluster, ips, until

TERMS = "--lease-duration=2s"


async def test_a_killed_leader_is_replaced_by_one_that_had_full_caches_and_answered_webhooks(tmp_path: Path) -> None:
    async with hooked(tmp_path) as hooks:
        cluster, kubeconfig = hooks.cluster, hooks.cluster.server.kubeconfig

        def replica(name: str, port: int) -> tuple[Path, tuple[str, ...]]:
            path = tmp_path / name
            path.mkdir()
            return path, (f"--namespace={NAMESPACE}", f"--pod-name={name}", TERMS, f"--webhook-port={port}")

        async def holder() -> str:
            lease = await cluster.client.get(LEASES, LEASE, NAMESPACE)
            held: str = lease.document["spec"]["holderIdentity"]
            return held

        (one_path, one_flags), (two_path, two_flags) = replica("one", a_free_port()), replica("two", hooks.port)
        async with process(one_path, *one_flags, kubeconfig=kubeconfig) as one:

            async def leads() -> bool:
                try:
                    return await holder() == "one"
                except NotFound:
                    return False

            await until(leads)
            async with process(two_path, *two_flags, kubeconfig=kubeconfig):
                waiting = Cluster(cluster.server, cluster.client, two_path)
                await hooks.until_served()  # The Service of the webhooks has only the one that waits.
                assert "invalid community format" in await hooks.refused(COMMUNITIES, communities=[{"name": "a", "value": "1"}])

                async def full() -> bool:
                    world = (await waiting.status())["world"]
                    return world["waiting_for"] == [] and not world["leads"]

                await cluster.pool()
                await cluster.service("a")
                before = await cluster.address("a")
                await until(full)
                assert await holder() == "one"
                one.send_signal(signal.SIGKILL)
                await ended(one)
                await cluster.service("b")
                assert await cluster.address("b") == "192.168.20.21"
                assert await holder() == "two"
                assert (await waiting.status())["world"]["leads"]
                assert ips(await cluster.get("a")) == before
                await hooks.refused(COMMUNITIES, communities=[{"name": "a", "value": "1"}])
