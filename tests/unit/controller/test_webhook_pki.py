from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from cryptography import x509

from controller.certificates import definition_trusting, host_name, validators_trusting
from controller.webhook_pki import Pair, Renewal, authority, from_data, renewal, renewed, trusted_beside

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOST = host_name("metallb-webhook-service", "metallb-system")


@pytest.fixture(scope="module")
def pair() -> Pair:
    return renewed(None, Renewal.BOTH, HOST, NOW)


def days(number: float) -> datetime:
    return NOW + timedelta(days=number)


def test_certificates_have_the_names_and_lifetimes_that_existing_clusters_have(pair: Pair) -> None:
    (issuer,) = x509.load_pem_x509_certificates(pair.ca)
    (server,) = x509.load_pem_x509_certificates(pair.certificate)
    assert issuer.subject.rfc4514_string() == "O=metallb,CN=cert"
    assert server.subject.rfc4514_string() == "CN=metallb-webhook-service.metallb-system.svc"
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["metallb-webhook-service.metallb-system.svc"]
    assert issuer.not_valid_after_utc == days(3650)
    assert server.not_valid_after_utc == days(365)
    assert issuer.not_valid_before_utc == server.not_valid_before_utc == NOW - timedelta(hours=1)
    assert issuer.public_key().key_size == 2048  # type: ignore[union-attr]  # It is an RSA key.


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (days(0), Renewal.NOTHING),
        (days(274.9), Renewal.NOTHING),
        (days(275.1), Renewal.SERVER),
        (days(3559.9), Renewal.SERVER),
        (days(3560.1), Renewal.BOTH),
        (days(-1), Renewal.BOTH),
    ],
)
def test_they_are_renewed_ninety_days_ahead(pair: Pair, at: datetime, expected: Renewal) -> None:
    assert renewal(pair, HOST, at) is expected


def test_what_does_not_fit_is_renewed(pair: Pair) -> None:
    other = renewed(None, Renewal.BOTH, HOST, NOW)
    assert renewal(None, HOST, NOW) is Renewal.BOTH
    assert renewal(pair, "other.svc", NOW) is Renewal.SERVER
    assert renewal(replace(pair, certificate=other.certificate, key=other.key), HOST, NOW) is Renewal.SERVER
    assert renewal(replace(pair, key=other.key), HOST, NOW) is Renewal.SERVER
    assert renewal(replace(pair, certificate=b"x"), HOST, NOW) is Renewal.SERVER
    assert renewal(replace(pair, ca_key=other.ca_key), HOST, NOW) is Renewal.BOTH
    assert renewal(replace(pair, ca=b"x"), HOST, NOW) is Renewal.BOTH


def test_a_renewed_server_certificate_keeps_its_authority(pair: Pair) -> None:
    after = renewed(pair, Renewal.SERVER, HOST, days(300))
    assert (after.ca, after.ca_key) == (pair.ca, pair.ca_key)
    assert after.certificate != pair.certificate
    assert renewal(after, HOST, days(300)) is Renewal.NOTHING
    assert renewed(pair, Renewal.NOTHING, HOST, NOW) is pair


def test_a_renewed_authority_leaves_the_old_one_trusted_and_no_older_one(pair: Pair) -> None:
    after = renewed(pair, Renewal.BOTH, HOST, days(3600))
    assert len(x509.load_pem_x509_certificates(after.ca)) == 2
    assert after.ca.endswith(pair.ca)
    assert renewal(after, HOST, days(3600)) is Renewal.NOTHING
    again = renewed(after, Renewal.BOTH, HOST, days(3601))
    assert len(x509.load_pem_x509_certificates(again.ca)) == 2
    late = renewed(pair, Renewal.BOTH, HOST, days(3651))
    assert len(x509.load_pem_x509_certificates(late.ca)) == 1
    assert len(x509.load_pem_x509_certificates(renewed(replace(pair, ca=b"x"), Renewal.BOTH, HOST, NOW).ca)) == 1


def test_while_either_of_two_certificates_may_be_shown_both_authorities_are_trusted(pair: Pair) -> None:
    stranger = renewed(None, Renewal.BOTH, HOST, NOW)
    assert trusted_beside(stranger, pair) == stranger.ca + authority(pair)
    successor = renewed(pair, Renewal.BOTH, HOST, NOW)
    assert trusted_beside(successor, pair) == successor.ca
    assert trusted_beside(renewed(pair, Renewal.SERVER, HOST, NOW), pair) == pair.ca


def test_a_secret_has_all_four_parts_or_none(pair: Pair) -> None:
    data = pair.as_data()
    assert set(data) == {"ca.crt", "ca.key", "tls.crt", "tls.key"}
    assert from_data(data) == pair
    for name in data:
        assert from_data({key: value for key, value in data.items() if key != name}) is None
    assert from_data({**data, "tls.key": "not base64!"}) is None
    assert "PRIVATE" not in repr(pair)


class TestTrust:
    HOOKS: ClassVar[dict[str, Any]] = {
        "webhooks": [
            {"name": "a", "clientConfig": {"url": "u"}},
            {"name": "b", "clientConfig": {"caBundle": "WEFCWg=="}},
            {"name": "c", "clientConfig": {"caBundle": "%"}},
        ]
    }

    def test_every_client_that_does_not_trust_us_gets_the_bundle(self) -> None:
        assert validators_trusting(self.HOOKS, b"AB")["webhooks"] == [
            {"name": "a", "clientConfig": {"url": "u", "caBundle": "QUI="}},
            {"name": "b", "clientConfig": {"caBundle": "WEFCWg=="}},
            {"name": "c", "clientConfig": {"caBundle": "QUI="}},
        ]

    def test_nothing_is_written_where_all_trust_us_already(self) -> None:
        assert validators_trusting({"webhooks": [{"clientConfig": {"caBundle": "WEFCWg=="}}]}, b"AB") == {}
        assert validators_trusting({}, b"AB") == {}

    def test_a_definition_that_is_not_converted_by_webhook_is_left_alone(self) -> None:
        assert definition_trusting({"spec": {"conversion": {"strategy": "None"}}}, b"AB") == {}
        patch = definition_trusting({"spec": {"conversion": {"webhook": {"clientConfig": {}}}}}, b"AB")
        assert patch == {"spec": {"conversion": {"webhook": {"clientConfig": {"caBundle": "QUI="}}}}}
        assert definition_trusting({"spec": {"conversion": {"webhook": {"clientConfig": {"caBundle": "QUI="}}}}}, b"AB") == {}
