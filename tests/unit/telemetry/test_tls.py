"""The --tls-* options mean what they mean to Go, and a certificate is followed without a restart."""

import os
import ssl
from pathlib import Path

import pytest

from telemetry.tls import ServerCertificate, TlsError, TlsOptions, parse_tls_options, self_signed


@pytest.mark.parity("TLS options > the default minimum is 1.3")
def test_tls_1_3_is_the_default() -> None:
    assert parse_tls_options("", "", "") == TlsOptions(ssl.TLSVersion.TLSv1_3)
    assert parse_tls_options("VersionTLS13", " ", "").min_version is ssl.TLSVersion.TLSv1_3


@pytest.mark.parity("TLS options > 1.2 with cipher suites")
def test_suites_are_translated_and_those_of_tls_1_3_need_no_translation() -> None:
    names = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305"
    options = parse_tls_options("VersionTLS12", names, "")
    assert options.ciphers == "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305"
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(options.ciphers)


@pytest.mark.parity("TLS options > curves > blanks are cut off")
def test_one_curve_is_offered_alone_and_blanks_do_not_matter() -> None:
    assert parse_tls_options("", "", " 23 ").curve == "prime256v1"
    assert parse_tls_options("", "", "24,").curve == "secp384r1"


def test_what_python_cannot_set_is_noted() -> None:
    options = parse_tls_options("", "", "23, 24")
    assert options.curve == ""
    assert "23, 24" in options.notes[0]


def test_a_group_that_this_openssl_lacks_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telemetry.tls.CURVES", {4589: "NoSuchGroup"})
    options = parse_tls_options("", "", "4589")
    assert options.curve == ""
    assert "NoSuchGroup" in options.notes[0]


@pytest.mark.parametrize(
    ("version", "suites", "curves", "message"),
    [
        ("VersionTLS10", "", "", "'VersionTLS10' is not one of VersionTLS12, VersionTLS13"),
        ("", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "", "no meaning with TLS 1.3"),
        ("VersionTLS12", "RC4", "", "'RC4' is not known"),
        ("", "", "0", "'0' is no curve number"),
        ("", "", "65536", "'65536' is no curve number"),
        ("", "", "P256", "'P256' is no curve number"),
        ("", "", "23,23", "23 is named twice"),
        ("", "", "7", "7 is not known"),
    ],
)
@pytest.mark.parity(
    "TLS options > cipher suites with 1.3",
    "TLS options > an unknown version",
    "TLS options > an unknown cipher suite",
    "TLS options > curves > not a number, zero, negative, out of range or twice",
)
def test_what_cannot_be_meant_is_named(version: str, suites: str, curves: str, message: str) -> None:
    with pytest.raises(TlsError, match=message):
        parse_tls_options(version, suites, curves)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def write_pair(folder: Path, stamp: int) -> None:
    certificate, key = self_signed()
    for name, content in (("tls.crt", certificate), ("tls.key", key)):
        (folder / name).write_bytes(content)
        os.utime(folder / name, (stamp, stamp))


def test_a_replaced_certificate_is_used_after_the_next_look(tmp_path: Path) -> None:
    write_pair(tmp_path, 1)
    clock = Clock()
    certificate = ServerCertificate(TlsOptions(curve="prime256v1"), tmp_path, clock=clock)
    first = certificate.context()
    write_pair(tmp_path, 2)
    assert certificate.context() is first
    clock.now = 11.0
    second = certificate.context()
    assert second is not first
    clock.now = 22.0
    assert certificate.context() is second


def test_a_broken_replacement_keeps_the_old_certificate_until_it_is_mended(tmp_path: Path) -> None:
    write_pair(tmp_path, 1)
    clock = Clock()
    certificate = ServerCertificate(TlsOptions(), tmp_path, clock=clock)
    first = certificate.context()
    (tmp_path / "tls.crt").write_text("half")
    (tmp_path / "tls.key").unlink()
    clock.now = 11.0
    assert certificate.context() is first
    assert str(tmp_path) in certificate.problem
    write_pair(tmp_path, 3)
    clock.now = 22.0
    assert certificate.context() is not first
    assert certificate.problem == ""


def test_a_directory_without_a_certificate_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(TlsError, match=f"--metrics-cert-dir={tmp_path}"):
        ServerCertificate(TlsOptions(), tmp_path, clock=Clock())
