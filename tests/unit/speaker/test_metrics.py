"""Metric names and series are MetalLB's."""

from __future__ import annotations

from ipaddress import IPv4Address

from prometheus_client import CollectorRegistry, generate_latest

from config.model import NodeName, ServiceKey
from speaker.metrics import Metrics
from tests.builders_speaker import VIP


def exposed(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_announced_series_come_and_go_with_the_announcement() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, NodeName("a"))
    metrics.announced(ServiceKey("default/web"), [VIP])
    line = 'metallb_speaker_announced{ip="192.0.2.10",node="a",protocol="layer2",service="default/web"} 1.0'
    assert line in exposed(registry)
    metrics.withdrawn(ServiceKey("default/web"), [VIP])
    assert not any(text.startswith("metallb_speaker_announced") for text in exposed(registry))


def test_counters_have_exactly_metallbs_names() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, NodeName("a"))
    metrics.request_received(VIP)
    metrics.response_sent(VIP)
    metrics.response_sent(IPv4Address("192.0.2.11"))
    for _ in range(2):
        metrics.gratuitous_sent(VIP)
    metrics.updates.increase()
    lines = exposed(registry)
    for line in (
        'metallb_layer2_requests_received{ip="192.0.2.10"} 1.0',
        'metallb_layer2_responses_sent{ip="192.0.2.11"} 1.0',
        'metallb_layer2_gratuitous_sent{ip="192.0.2.10"} 2.0',
        "metallb_k8s_client_updates_total 1.0",
        "metallb_k8s_client_update_errors_total 0.0",
        "metallb_k8s_client_config_loaded_bool 0.0",
        "metallb_k8s_client_config_stale_bool 0.0",
    ):
        assert line in lines
