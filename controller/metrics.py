"""Names and meaning of every metric of the controller.

The values are read when somebody scrapes: counting costs nothing while addresses are allocated. reconcile and apply
increment the tally; the pools are read from the ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

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
    failed_writes: int = 0


class Answer(StrEnum):
    """What a webhook made of a request."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    CONVERTED = "converted"
    MALFORMED = "malformed"
    """It was no review that could be read."""
    UNANSWERED = "unanswered"
    """What is there could not be seen, so the failurePolicy decided."""


OPERATIONS = frozenset({"CREATE", "UPDATE", "DELETE"})


@dataclass(slots=True)
class WebhookTally:
    """What the webhooks answered since the process started, by kind, operation and answer; and when their certificate ends.

    `certificate_ends` is in Unix seconds; None while there is no certificate.
    """

    answers: Counter[tuple[str, str, Answer]] = field(default_factory=Counter)
    certificate_ends: float | None = None

    def count(self, kind: str, operation: str, answer: Answer) -> None:
        """One more; what is no operation of ours counts as an empty one, so that no stranger makes series."""
        known = operation in OPERATIONS or answer is Answer.CONVERTED
        self.answers[kind, operation if known else "", answer] += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How things stand at the moment: what is not written yet, who waits, and how many writes of each sort have failed so far."""

    leads: bool = True
    pending_writes: int = 0
    waiting: int = 0
    kept: int = 0
    failures: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


class Metrics(Collector):
    """Turns a tally and a ledger into metric families, for a prometheus registry."""

    def __init__(
        self,
        tally: Tally,
        ledger: Callable[[], Ledger],
        standing: Callable[[], Standing] = Standing,
        webhooks: WebhookTally | None = None,
    ) -> None:
        self._tally = tally
        self._ledger = ledger
        self._standing = standing
        self._webhooks = webhooks

    def collect(self) -> Iterator[Metric]:
        """All families, as of now."""
        yield from self._client()
        yield from self._now()
        yield from self._pools()
        if self._webhooks is not None:
            yield from self._answers(self._webhooks)

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

    def _now(self) -> Iterator[Metric]:
        now = self._standing()
        gauges = (
            ("leads_bool", "1 while this replica decides and writes.", int(now.leads)),
            (
                "pending_writes",
                "Services whose status is not written yet, those whose write failed included.",
                now.pending_writes,
            ),
            ("waiting_services", "Services that wait for an address.", now.waiting),
            ("kept_services", "Deleted Services whose addresses are kept for their return.", now.kept),
        )
        for name, text, value in gauges:
            yield GaugeMetricFamily(f"metallb_controller_{name}", text, value)
        failures = CounterMetricFamily(
            "metallb_controller_write_failures", "Writes that failed, and are tried again.", labels=("object",)
        )
        for sort, count in now.failures.items():
            failures.add_metric([sort], count)
        yield failures

    def _answers(self, tally: WebhookTally) -> Iterator[Metric]:
        answers = CounterMetricFamily(
            "metallb_controller_webhook_requests", "Requests to the webhooks.", labels=("kind", "operation", "verdict")
        )
        for labels, count in sorted(tally.answers.items()):
            answers.add_metric(labels, count)
        yield answers
        if tally.certificate_ends is not None:
            yield GaugeMetricFamily(
                "metallb_controller_webhook_certificate_expiry_timestamp_seconds",
                "When the certificate that the webhooks show ends.",
                tally.certificate_ends,
            )

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
