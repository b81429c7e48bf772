from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from config.model import ServiceKey
from controller.ipam.ledger import Ledger
from controller.metrics import Metrics, Tally
from tests.builders import a_config, a_pool, addresses


def scraped(tally: Tally, ledger: Ledger) -> list[str]:
    registry = CollectorRegistry()
    registry.register(Metrics(tally, lambda: ledger))
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_pools_show_their_size_and_what_is_in_use_from_the_start() -> None:
    ledger = Ledger(
        a_config(a_pool("a", "10.0.0.0/24,10.0.1.0/25", avoid_buggy_ips=True), a_pool("b", "fc00::/64,10.2.0.0/31"))
    )
    ledger.claim(ServiceKey("ns/s"), addresses("10.0.0.1"))
    lines = scraped(Tally(), ledger)
    assert 'metallb_allocator_addresses_total{pool="a"} 381.0' in lines
    assert 'metallb_allocator_addresses_in_use_total{pool="a"} 1.0' in lines
    assert 'metallb_allocator_ipv4_addresses_in_use_total{pool="a"} 1.0' in lines
    assert 'metallb_allocator_ipv6_addresses_in_use_total{pool="b"} 0.0' in lines
    assert 'metallb_allocator_ipv4_addresses_total{pool="b"} 2.0' in lines
    assert 'metallb_allocator_addresses_total{pool="b"} 9.223372036854776e+18' in lines


def test_counters_and_gauges_keep_the_names_that_dashboards_know() -> None:
    tally = Tally(updates=3, update_errors=1, config_loaded=True, config_stale=True, writes=2)
    lines = scraped(tally, Ledger(a_config()))
    assert lines == [
        "metallb_k8s_client_updates_total 3.0",
        "metallb_k8s_client_update_errors_total 1.0",
        "metallb_k8s_client_config_loaded_bool 1.0",
        "metallb_k8s_client_config_stale_bool 1.0",
        "metallb_controller_status_writes_total 2.0",
    ]
