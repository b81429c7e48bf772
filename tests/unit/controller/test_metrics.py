from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from config.model import ServiceKey
from controller.ipam.ledger import Ledger
from controller.metrics import Answer, Metrics, Standing, Tally, WebhookTally
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
        "metallb_controller_leads_bool 1.0",
        "metallb_controller_pending_writes 0.0",
        "metallb_controller_waiting_services 0.0",
        "metallb_controller_kept_services 0.0",
    ]


def test_how_things_stand_is_asked_at_each_scrape() -> None:
    registry = CollectorRegistry()
    standing = Standing(leads=False, pending_writes=3, waiting=2, kept=1, failures={"service": 4, "pool": 0})
    registry.register(Metrics(Tally(), lambda: Ledger(a_config()), lambda: standing))
    assert [registry.get_sample_value(f"metallb_controller_{name}") for name in ("leads_bool", "pending_writes")] == [0, 3]
    assert registry.get_sample_value("metallb_controller_waiting_services") == 2
    assert registry.get_sample_value("metallb_controller_kept_services") == 1
    assert registry.get_sample_value("metallb_controller_write_failures_total", {"object": "service"}) == 4
    assert registry.get_sample_value("metallb_controller_write_failures_total", {"object": "pool"}) == 0


def test_webhooks_are_counted_by_kind_operation_and_verdict_and_no_stranger_makes_series() -> None:
    registry, tally = CollectorRegistry(), WebhookTally()
    registry.register(Metrics(Tally(), lambda: Ledger(a_config()), webhooks=tally))
    ends = "metallb_controller_webhook_certificate_expiry_timestamp_seconds"
    assert registry.get_sample_value(ends) is None
    tally.count("IPAddressPool", "CREATE", Answer.REFUSED)
    tally.count("IPAddressPool", "CREATE", Answer.REFUSED)
    tally.count("BGPPeer", "CONVERT", Answer.CONVERTED)
    tally.count("Community", "made up", Answer.ALLOWED)
    tally.certificate_ends = 1.5e9
    name = "metallb_controller_webhook_requests_total"

    def counted(kind: str, operation: str, verdict: str) -> float | None:
        return registry.get_sample_value(name, {"kind": kind, "operation": operation, "verdict": verdict})

    assert counted("IPAddressPool", "CREATE", "refused") == 2
    assert counted("BGPPeer", "CONVERT", "converted") == 1
    assert counted("Community", "", "allowed") == 1
    assert registry.get_sample_value(ends) == 1.5e9


def test_every_metric_of_metallbs_controller_is_there() -> None:
    """The list is MetalLB's, without metallb_allocator_services_allocated_total, which it names and never sets."""
    lines = scraped(Tally(), Ledger(a_config(a_pool("a", "10.0.0.0/24"))))
    assert {line.partition(" ")[0].partition("{")[0] for line in lines} >= {
        "metallb_allocator_addresses_total",
        "metallb_allocator_addresses_in_use_total",
        "metallb_allocator_ipv4_addresses_total",
        "metallb_allocator_ipv4_addresses_in_use_total",
        "metallb_allocator_ipv6_addresses_total",
        "metallb_allocator_ipv6_addresses_in_use_total",
        "metallb_k8s_client_updates_total",
        "metallb_k8s_client_update_errors_total",
        "metallb_k8s_client_config_loaded_bool",
        "metallb_k8s_client_config_stale_bool",
    }


def test_the_series_of_a_pool_end_with_it() -> None:
    ledgers = [Ledger(a_config(a_pool("a", "10.0.0.0/24"))), Ledger(a_config())]
    registry = CollectorRegistry()
    registry.register(Metrics(Tally(), lambda: ledgers[0]))
    assert registry.get_sample_value("metallb_allocator_addresses_total", {"pool": "a"}) == 256
    ledgers.pop(0)
    assert registry.get_sample_value("metallb_allocator_addresses_total", {"pool": "a"}) is None
