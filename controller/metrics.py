"""Names and meaning of every metric of the controller.

The values are read when somebody scrapes: counting costs nothing while addresses are allocated. reconcile and apply
increment the tally; the pools are read from the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controller.ipam.ledger import Ledger

INT64_MAX = 2**63 - 1
"""What MetalLB shows for pools that are larger than an int64."""


@dataclass(slots=True)
class Tally:
    """What the controller counted since it started."""

    updates: int = 0
    update_errors: int = 0
    config_loaded: bool = False
    config_stale: bool = False
    writes: int = 0


class Metrics(Collector):
    """Turns a tally and a ledger into metric families, for a prometheus registry."""

    def __init__(self, tally: Tally, ledger: Callable[[], Ledger]) -> None:
        self._tally = tally
        self._ledger = ledger

    def collect(self) -> Iterator[Metric]:
        """All families, as of now."""
        yield from self._client()
        yield from self._pools()

    def _client(self) -> Iterator[Metric]:
        tally = self._tally
        yield CounterMetricFamily("metallb_k8s_client_updates", "Objects that were decided about.", tally.updates)
        yield CounterMetricFamily("metallb_k8s_client_update_errors", "Updates that failed.", tally.update_errors)
        yield GaugeMetricFamily(
            "metallb_k8s_client_config_loaded_bool", "1 once a configuration was accepted.", int(tally.config_loaded)
        )
        yield GaugeMetricFamily(
            "metallb_k8s_client_config_stale_bool",
            "1 while something that users wrote is not in force.",
            int(tally.config_stale),
        )
        yield CounterMetricFamily("metallb_controller_status_writes", "Service statuses written.", tally.writes)

    def _pools(self) -> Iterator[Metric]:
        ledger = self._ledger()
        families = {
            name: GaugeMetricFamily(f"metallb_allocator_{name}", text, labels=("pool",))
            for name, text in (
                ("addresses_total", "Addresses that the pool may give out."),
                ("addresses_in_use_total", "Different addresses in use."),
                ("ipv4_addresses_total", "IPv4 addresses that the pool may give out."),
                ("ipv4_addresses_in_use_total", "Different IPv4 addresses in use."),
                ("ipv6_addresses_total", "IPv6 addresses that the pool may give out."),
                ("ipv6_addresses_in_use_total", "Different IPv6 addresses in use."),
            )
        }
        for pool in ledger.pools:
            four, six = ledger.usage(pool, 4), ledger.usage(pool, 6)
            families["addresses_total"].add_metric([pool], min(four.usable + six.usable, INT64_MAX))
            families["addresses_in_use_total"].add_metric([pool], four.in_use + six.in_use)
            families["ipv4_addresses_total"].add_metric([pool], min(four.usable, INT64_MAX))
            families["ipv4_addresses_in_use_total"].add_metric([pool], four.in_use)
            families["ipv6_addresses_total"].add_metric([pool], min(six.usable, INT64_MAX))
            families["ipv6_addresses_in_use_total"].add_metric([pool], six.in_use)
        yield from families.values()
