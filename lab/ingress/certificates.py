"""Check the certificates that Secrets hold, and make the one that is shown where there is no other."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kube.objects import Secret

FAKE_NAME: Final = "Kubernetes Ingress Controller Fake Certificate"
_VALID: Final = dt.timedelta(days=365)


class CertificateError(ValueError):
    """A Secret holds no certificate with its key; the message says what is wrong."""


def pem_of(secret: Secret) -> tuple[bytes, tuple[str, ...]]:
    """Certificate chain and key of a Secret as one PEM file, and the DNS names in the certificate.

    Raises:
        CertificateError: it has none, or they do not belong together.

    """
    data = secret.data or {}
    missing = [key for key in ("tls.crt", "tls.key") if not data.get(key)]
    if missing:
        raise CertificateError(f"Secret {secret.key} has no {' and no '.join(missing)}; kubectl create secret tls makes one")
    try:
        chain, key = (base64.b64decode(data[name], validate=True) for name in ("tls.crt", "tls.key"))
        certificate = x509.load_pem_x509_certificates(chain)[0]
        private = serialization.load_pem_private_key(key, None)
    except (binascii.Error, ValueError, TypeError) as error:
        raise CertificateError(f"Secret {secret.key}: {error}") from None
    kind = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*kind) != certificate.public_key().public_bytes(*kind):
        raise CertificateError(f"Secret {secret.key}: tls.key is not the key of the certificate in tls.crt")
    return chain.rstrip() + b"\n" + key, _names(certificate)


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(found.value.get_values_for_type(x509.DNSName))


def fake_pem() -> bytes:
    """A certificate that nobody trusts, with its key: what ingress-nginx shows for hosts without a Secret."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, FAKE_NAME)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("ingress.local")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(serialization.Encoding.PEM) + private
