"""Frozen values with readable defaults, for tests of config and controller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any

from config.model import Config, IPAddress, Pool, PoolName, Selector, ServiceKey
from config.values import parse_range, parse_ranges
from controller.ipam.sharing import ALONE, Use
from controller.world import FamilyPolicy, Recorded, Service, World

NAMESPACE = "metallb-system"


def addresses(text: str) -> tuple[IPAddress, ...]:
    """The addresses in a blank-separated text."""
    return tuple(ip_address(one) for one in text.split())


def a_pool(
    name: str = "default",
    ranges: str = "192.168.20.20-192.168.20.255",
    *,
    auto_assign: bool = True,
    avoid_buggy_ips: bool = False,
    pinned: bool = False,
    priority: int = 0,
    namespaces: Iterable[str] | None = None,
    selectors: Iterable[Selector] = (),
    reserved: str = "",
) -> Pool:
    """A compiled pool; `ranges` are separated by commas."""
    return Pool(
        name=PoolName(name),
        ranges=tuple(parse_range(one.strip()) for one in ranges.split(",")),
        auto_assign=auto_assign,
        avoid_buggy_ips=avoid_buggy_ips,
        pinned=pinned or namespaces is not None or bool(tuple(selectors)),
        priority=priority,
        namespaces=None if namespaces is None else frozenset(namespaces),
        service_selectors=tuple(selectors),
        reserved=parse_ranges(reserved),
    )


def a_config(*pools: Pool, broken: Iterable[str] = ()) -> Config:
    """A configuration with these pools."""
    by_name = {pool.name: pool for pool in sorted(pools, key=lambda pool: pool.name)}
    return Config(MappingProxyType(by_name), (), frozenset(PoolName(name) for name in broken))


def a_use(key: str = "k", backend: str = "", ports: str = "TCP/80") -> Use:
    """How a Service shares its address; `ports` are separated by blanks."""
    if not key:
        return ALONE
    pairs = (one.split("/") for one in ports.split())
    return Use(key, backend, frozenset((protocol, int(number)) for protocol, number in pairs))


def a_service(
    name: str = "web",
    *,
    namespace: str = "default",
    created: int = 0,
    holds: str = "",
    pool: str | None = None,
    plain: bool = True,
    cluster_ips: str = "10.96.0.1",
    policy: FamilyPolicy = FamilyPolicy.SINGLE,
    primary: int = 4,
    wants: str = "",
    wants_pool: str | None = None,
    problem: str = "",
    labels: Mapping[str, str] = MappingProxyType({}),
    load_balancer: bool = True,
    lb_class: str = "",
    uid: str = "",
    version: str = "1",
    sharing_key: str = "",
    backend: str = "",
    ports: str = "TCP/80",
    deprecated: tuple[str, ...] = (),
    keep_for_s: float | None = None,
    keep_problem: str = "",
) -> Service:
    """A Service as the plan sees it; `holds` are the addresses in its status, `pool` its output annotation."""
    return Service(
        key=ServiceKey(f"{namespace}/{name}"),
        uid=uid or f"uid-{name}",
        version=version,
        created=f"2026-01-01T00:{created // 60:02}:{created % 60:02}Z",
        labels=MappingProxyType(dict(labels)),
        load_balancer=load_balancer,
        load_balancer_class=lb_class,
        cluster_ips=addresses(cluster_ips),
        policy=policy,
        primary=primary,
        wanted_addresses=addresses(wants),
        wanted_pool=None if wants_pool is None else PoolName(wants_pool),
        request_problem=problem,
        use=a_use(sharing_key, backend, ports),
        deprecated_annotations=deprecated,
        keep_for_s=keep_for_s,
        keep_problem=keep_problem,
        recorded=Recorded(addresses(holds), None if pool is None else PoolName(pool), plain),
    )


def a_world(*services: Service, config: Config | None = None, lb_class: str = "") -> World:
    """A World of the controller with these Services, and one pool unless another configuration is given."""
    return World(
        config=a_config(a_pool()) if config is None else config,
        services={service.key: service for service in services},
        lb_class=lb_class,
    )


def a_pool_document(
    name: str = "default",
    ranges: Iterable[object] = ("192.168.20.20-192.168.20.255",),
    *,
    created: int = 0,
    uid: str = "",
    labels: Mapping[str, str] | None = None,
    namespace: str = NAMESPACE,
    **spec: object,
) -> dict[str, Any]:
    """An IPAddressPool as the API server has it."""
    return {
        "apiVersion": "metallb.io/v1beta1",
        "kind": "IPAddressPool",
        "metadata": _metadata(name, namespace, created, uid, labels),
        "spec": {"addresses": list(ranges), **spec},
    }


def an_l2_document(
    name: str = "default", *, created: int = 0, uid: str = "", namespace: str = NAMESPACE, **spec: object
) -> dict[str, Any]:
    """An L2Advertisement as the API server has it."""
    return {
        "apiVersion": "metallb.io/v1beta1",
        "kind": "L2Advertisement",
        "metadata": _metadata(name, namespace, created, uid, None),
        "spec": dict(spec),
    }


def _metadata(name: str, namespace: str, created: int, uid: str, labels: Mapping[str, str] | None) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": namespace,
        "uid": uid or f"uid-{name}",
        "creationTimestamp": f"2026-01-01T00:00:{created:02}Z",
        **({"labels": dict(labels)} if labels else {}),
    }
