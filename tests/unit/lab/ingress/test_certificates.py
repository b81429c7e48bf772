"""Secrets with certificates: what is taken, what is refused and why."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography import x509

from kube.objects import ObjectMeta, Secret
from lab.apiserver.pki import Authority
from lab.ingress.certificates import FAKE_NAME, CertificateError, fake_pem, pem_of


def a_secret(**files: bytes) -> Secret:
    data = {name.replace("_", "."): base64.b64encode(content).decode() for name, content in files.items()}
    return Secret(metadata=ObjectMeta(name="cert", namespace="x"), data=data)


def test_a_good_secret_becomes_one_file_and_its_names_are_known(tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("a", "a", names=["a.example", "*.b.example"])
    crt, key = pair.certificate.read_bytes(), pair.key.read_bytes()
    pem, names = pem_of(a_secret(tls_crt=crt, tls_key=key))
    assert names == ("a.example", "*.b.example")
    assert crt.strip() in pem
    assert key in pem


def test_a_certificate_without_names_has_none(tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("a", "a")
    assert pem_of(a_secret(tls_crt=pair.certificate.read_bytes(), tls_key=pair.key.read_bytes()))[1] == ()


def test_what_is_no_certificate_with_its_key_is_refused_with_the_reason(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    one, other = authority.issue("a", "a"), authority.issue("b", "b")
    crt = one.certificate.read_bytes()
    with pytest.raises(CertificateError, match=r"x/cert has no tls.crt and no tls.key; kubectl create secret tls"):
        pem_of(a_secret())
    with pytest.raises(CertificateError, match="Secret x/cert: "):
        pem_of(a_secret(tls_crt=b"nonsense", tls_key=one.key.read_bytes()))
    with pytest.raises(CertificateError, match="is not the key of the certificate"):
        pem_of(a_secret(tls_crt=crt, tls_key=other.key.read_bytes()))


def test_the_certificate_that_nobody_trusts_says_so() -> None:
    assert FAKE_NAME in x509.load_pem_x509_certificate(fake_pem()).subject.rfc4514_string()
