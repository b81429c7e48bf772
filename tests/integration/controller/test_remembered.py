"""Addresses that outlive their Services, as users see them, and the ConfigMap that remembers them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from config.model import ServiceKey
from controller.ipam.memory import Memory, Remembered
from controller.observe import ADDRESS_ASSIGNED, KEEP_ADDRESS_FOR
from controller.remembered import NAME, ROOM, RememberedAddresses, decoded, encoded
from kube.errors import NotFound
from kube.objects import ConfigMap
from kube.resources import CONFIG_MAPS, SERVICES
from tests.builders import NAMESPACE, addresses
from tests.unit.controller.cluster import Cluster, a_cluster, ips, until
from tests.unit.controller.test_apply import Heard

DAY = {KEEP_ADDRESS_FOR: "24h"}


async def noted(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """What the ConfigMap says, if there is one."""
    try:
        found: ConfigMap = await cluster.client.get(CONFIG_MAPS, NAME, NAMESPACE)
    except NotFound:
        return {}
    return {name: json.loads(text) for name, text in (found.data or {}).items()}


async def until_noted(cluster: Cluster, name: str, **members: object) -> None:
    """Return once the ConfigMap has these members for a Service of the namespace default."""

    async def there() -> bool:
        entry = (await noted(cluster)).get(f"default.{name}")
        return entry is not None and all((entry.get(key) is not None) == bool(value) for key, value in members.items())

    await until(there)


async def until_settled(cluster: Cluster) -> None:
    async def settled() -> bool:
        said = await cluster.status()
        return bool(said["world"]["ready"]) and not said["pending_writes"] and not said["pending_remembered"]

    await until(settled)


async def delete(cluster: Cluster, name: str) -> None:
    await cluster.client.delete(SERVICES, name, namespace="default")


async def test_a_service_deleted_and_made_again_has_its_address_and_nobody_else_got_it(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster, cluster.controlled():
        await cluster.pool()
        await cluster.service(annotations=DAY)
        assert await cluster.address() == "192.168.20.20"
        await until_noted(cluster, "web", until=None)
        assert (await noted(cluster))["default.web"] == {"addresses": ["192.168.20.20"], "keepForSeconds": 86400.0}
        await delete(cluster, "web")
        await until_noted(cluster, "web", until=True)
        await cluster.service("other")
        assert await cluster.address("other") == "192.168.20.21"
        kept = (await cluster.status())["plan"]["kept_for_deleted"]["default/web"]
        assert kept["addresses"] == ["192.168.20.20"]
        assert 86300 < kept["for_s"] <= 86400
        await cluster.service()
        assert await cluster.address() == "192.168.20.20"
        await until_settled(cluster)
        assert await noted(cluster) == {}, "the one that returned did not ask for it again"


@pytest.mark.parametrize("when", ["before", "while nobody looks"])
async def test_a_restart_forgets_nothing(tmp_path: Path, when: str) -> None:
    async with a_cluster(tmp_path) as cluster:
        await cluster.pool()
        async with cluster.controlled():
            await cluster.service(annotations=DAY)
            await cluster.address()
            await until_noted(cluster, "web")
            if when == "before":
                await delete(cluster, "web")
                await until_noted(cluster, "web", until=True)
        if when != "before":
            await delete(cluster, "web")
        async with cluster.controlled():
            await until_noted(cluster, "web", until=True)
            await cluster.service("other")
            assert await cluster.address("other") == "192.168.20.21"
            await cluster.service()
            assert await cluster.address() == "192.168.20.20"


async def test_the_time_ends_without_any_other_event_and_who_waits_gets_the_address(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster, cluster.controlled():
        await cluster.pool("tiny", "192.168.20.20/32")
        await cluster.service(annotations={KEEP_ADDRESS_FOR: "300ms"})
        await cluster.address()
        await delete(cluster, "web")
        await cluster.service("waits")
        assert await cluster.address("waits") == "192.168.20.20"
        await until_settled(cluster)
        assert await noted(cluster) == {}


async def test_a_bad_value_is_told_and_the_service_is_served(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster, cluster.controlled():
        await cluster.pool()
        await cluster.service(annotations={KEEP_ADDRESS_FOR: "a day"})
        assert await cluster.address() == "192.168.20.20"
        note = await cluster.event("web", "KeepAddressInvalid")
        problem = (
            "annotation lb.metallb-py.io/keep-address-for: invalid duration 'a day'; "
            "write a number with a unit, such as 90s or 1m30s"
        )
        assert note == f'the address of "default/web" will not be kept: {problem}'
        (condition,) = [one for one in (await cluster.get()).status.conditions or () if one.type == ADDRESS_ASSIGNED]
        assert (condition.status, condition.message) == ("True", f'192.168.20.20 from pool "default"; {problem}')
        await cluster.change("web", metadata={"annotations": DAY})
        await until_noted(cluster, "web")
        (condition,) = [one for one in (await cluster.get()).status.conditions or () if one.type == ADDRESS_ASSIGNED]
        assert condition.message == '192.168.20.20 from pool "default"'
        assert ips(await cluster.get()) == "192.168.20.20"


async def test_nothing_is_made_or_written_where_nobody_asks_for_it_and_once_all_is_said(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        await cluster.pool()
        async with cluster.controlled():
            await cluster.service("plain")
            await cluster.address("plain")
            await until_settled(cluster)
            assert await noted(cluster) == {}
            await cluster.service(annotations=DAY)
            await cluster.address()
            await until_noted(cluster, "web")
        before = await cluster.client.get(CONFIG_MAPS, NAME, NAMESPACE)
        async with cluster.controlled():
            await until_settled(cluster)
            await cluster.service("another")
            await cluster.address("another")
            await until_settled(cluster)
        assert await cluster.client.get(CONFIG_MAPS, NAME, NAMESPACE) == before


@asynccontextmanager
async def a_keeper(cluster: Cluster, memory: Memory) -> AsyncIterator[tuple[RememberedAddresses, Heard]]:
    """The part that writes the ConfigMap, with a memory of the test's own."""
    heard = Heard()
    keeper = RememberedAddresses(cluster.client, lambda: memory, heard, namespace=NAMESPACE)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(keeper.run(), name="remembered")
        try:
            await keeper.load()
            yield keeper, heard
        finally:
            task.cancel()


async def test_many_changes_become_few_writes_of_only_what_changed(tmp_path: Path) -> None:
    memory = Memory()
    async with a_cluster(tmp_path) as cluster, a_keeper(cluster, memory) as (keeper, _):
        for number in range(200):
            memory.hold(ServiceKey(f"default/s{number}"), addresses("192.0.2.1"), 60.0)
            keeper.look(memory.take_changed())
            await asyncio.sleep(0)
        await keeper.idle()
        assert len(await noted(cluster)) == 200
        assert keeper.writes <= 2
        memory.forget(ServiceKey("default/s7"))
        keeper.look(memory.take_changed())
        await keeper.idle()
        assert "default.s7" not in await noted(cluster)
        keeper.look([ServiceKey("default/s8")])
        await keeper.idle()
        assert keeper.writes <= 3


@pytest.mark.parametrize("what", ["changed", "deleted"])
async def test_what_somebody_else_did_to_it_is_put_right_with_the_next_change(tmp_path: Path, what: str) -> None:
    memory = Memory()
    async with a_cluster(tmp_path) as cluster, a_keeper(cluster, memory) as (keeper, _):
        for name in ("a", "b"):
            memory.hold(ServiceKey(f"default/{name}"), addresses("192.0.2.1"), 60.0)
        keeper.look(memory.take_changed())
        await keeper.idle()
        if what == "changed":
            edit = {"data": {"default.a": "nonsense", "default.c": "more of it"}}
            await cluster.client.patch(CONFIG_MAPS, NAME, edit, namespace=NAMESPACE)
        else:
            await cluster.client.delete(CONFIG_MAPS, NAME, namespace=NAMESPACE)
        memory.forget(ServiceKey("default/b"))
        keeper.look(memory.take_changed())

        expected = {"default.a": json.loads(encoded(memory.entries[ServiceKey("default/a")]))}

        async def right() -> bool:
            try:
                return await noted(cluster) == expected
            except json.JSONDecodeError:
                return False  # Not yet put right.

        await until(right)


async def test_entries_that_cannot_be_read_are_named_and_the_others_are_taken(tmp_path: Path) -> None:
    good = Remembered(addresses("192.0.2.1 fc00::1"), 60.0, 1000.5)
    data = {"default.a": encoded(good), "default.b": "nonsense", "default.c": '{"addresses":["x"],"keepForSeconds":1}'}
    async with a_cluster(tmp_path) as cluster:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": data}
        await cluster.client.create(CONFIG_MAPS, body, namespace=NAMESPACE)
        async with a_keeper(cluster, Memory()) as (keeper, heard):
            assert keeper.loaded == {"default/a": good}
            assert heard.lines.count("remembered_address_unreadable") == 2
            assert keeper.writes == 0, "nothing is written before the plan knows of it"
            keeper.taken_in()
            await keeper.idle()
            assert (await cluster.client.get(CONFIG_MAPS, NAME, NAMESPACE)).data in ({}, None)


async def test_what_finds_no_room_is_left_out_said_and_written_once_there_is_room(tmp_path: Path) -> None:
    memory = Memory()
    count = ROOM // 100
    async with a_cluster(tmp_path) as cluster, a_keeper(cluster, memory) as (keeper, heard):
        for number in range(count):
            memory.hold(ServiceKey(f"default/{number:063}"), addresses("192.168.20.20"), 60.0)
        memory.bury(ServiceKey(f"default/{count - 1:063}"), 0.0)
        keeper.look(memory.take_changed())
        await keeper.idle()
        found = await noted(cluster)
        assert 0 < len(found) < count
        assert f"default.{count - 1:063}" in found, "deleted ones come first"
        assert heard.lines.count("remembered_addresses_full") == 1
        for number in range(count // 2):
            memory.forget(ServiceKey(f"default/{number:063}"))
        keeper.look(memory.take_changed())
        await keeper.idle()
        assert len(await noted(cluster)) == count - count // 2
        assert keeper.pending == []


def test_an_entry_reads_as_it_was_written() -> None:
    for one in (Remembered(addresses("192.0.2.1"), 0.3), Remembered(addresses("192.0.2.1 fc00::1"), 86400.0, 1767225600.125)):
        assert decoded(encoded(one)) == one
