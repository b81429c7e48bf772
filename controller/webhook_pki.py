"""Certificates of the webhooks: made, judged and read. Pure but for the keys it draws.

controller.certificates stores them in a Secret and has the API server trust them. The numbers are those of existing
clusters, so that a Secret written by MetalLB is taken over as it is, and the other way round.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_FILE, CA_KEY_FILE, CERTIFICATE_FILE, KEY_FILE = "ca.crt", "ca.key", "tls.crt", "tls.key"
KEY_BITS: Final = 2048
CA_NAME: Final = x509.Name(
    [x509.NameAttribute(NameOID.COMMON_NAME, "cert"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "metallb")]
)
CA_LIFETIME: Final = timedelta(days=3650)
SERVER_LIFETIME: Final = timedelta(days=365)
AHEAD: Final = timedelta(days=90)
"""A certificate is renewed this long before it ends."""
BACKDATED: Final = timedelta(hours=1)
"""For clocks that are behind."""


class Renewal(Enum):
    """What of a pair has to be made anew."""

    NOTHING = "nothing"
    SERVER = "server"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Pair:
    """An authority and the server certificate it signed, all PEM.

    `ca` begins with the authority in use; after a renewal the one before follows, so that both are trusted for a while.
    """

    ca: bytes
    ca_key: bytes
    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Pair(…)"

    def as_data(self) -> dict[str, str]:
        """The data of the Secret."""
        files = {CA_FILE: self.ca, CA_KEY_FILE: self.ca_key, CERTIFICATE_FILE: self.certificate, KEY_FILE: self.key}
        return {name: base64.b64encode(content).decode("ascii") for name, content in files.items()}


def from_data(data: Mapping[str, str]) -> Pair | None:
    """The pair in the data of a Secret; None if any of the four parts is missing."""
    parts = []
    for name in (CA_FILE, CA_KEY_FILE, CERTIFICATE_FILE, KEY_FILE):
        try:
            content = base64.b64decode(data.get(name) or "", validate=True)
        except binascii.Error:
            return None
        if not content:
            return None
        parts.append(content)
    return Pair(*parts)


def renewal(pair: Pair | None, host: str, now: datetime) -> Renewal:
    """What of a pair has to be made anew for a server with this DNS name: what ends soon, does not fit, or cannot be read."""
    if pair is None:
        return Renewal.BOTH
    try:
        authority = x509.load_pem_x509_certificates(pair.ca)[0]
        authority_key = _key(pair.ca_key)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return Renewal.BOTH
    if not _holds(authority, now) or authority.public_key() != authority_key.public_key():
        return Renewal.BOTH
    try:
        server = x509.load_pem_x509_certificates(pair.certificate)[0]
        names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        fits = server.public_key() == _key(pair.key).public_key() and host in names.get_values_for_type(x509.DNSName)
        server.verify_directly_issued_by(authority)
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.ExtensionNotFound):
        return Renewal.SERVER
    return Renewal.NOTHING if fits and _holds(server, now) else Renewal.SERVER


def ends(certificate: bytes) -> float:
    """When the first certificate in a PEM text ends, in Unix seconds.

    Raises:
        ValueError: there is none.

    """
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc.timestamp()


def _holds(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now and now + AHEAD < certificate.not_valid_after_utc


def _key(pem: bytes) -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError("an RSA key is needed")
    return key


def renewed(pair: Pair | None, wanted: Renewal, host: str, now: datetime) -> Pair:
    """The pair with what has to be made anew. An authority that is replaced stays trusted beside the new one."""
    if wanted is Renewal.NOTHING and pair is not None:
        return pair
    if wanted is Renewal.SERVER and pair is not None:
        authority_key, authority_pem = _key(pair.ca_key), pair.ca
        authority = x509.load_pem_x509_certificates(pair.ca)[0]
    else:
        authority_key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
        authority = _authority(authority_key, now)
        authority_pem = authority.public_bytes(serialization.Encoding.PEM) + _still_trusted(pair, now)
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    server = _server(key, authority, authority_key, host, now)
    return Pair(authority_pem, _pem(authority_key), server.public_bytes(serialization.Encoding.PEM), _pem(key))


def _still_trusted(pair: Pair | None, now: datetime) -> bytes:
    """The authority before, if there is one that anybody could trust."""
    if pair is None:
        return b""
    try:
        before = x509.load_pem_x509_certificates(pair.ca)[0]
    except ValueError:
        return b""
    return before.public_bytes(serialization.Encoding.PEM) if now < before.not_valid_after_utc else b""


def authority(pair: Pair) -> bytes:
    """The certificate (PEM) of the authority in use."""
    return x509.load_pem_x509_certificates(pair.ca)[0].public_bytes(serialization.Encoding.PEM)


def trusted_beside(pair: Pair, shown: Pair) -> bytes:
    """The authorities (PEM) that a client must trust while it may be shown the certificate of either pair; those of `pair` first."""
    before = authority(shown)
    return pair.ca if before in pair.ca else pair.ca + before


def _pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _authority(key: rsa.RSAPrivateKey, now: datetime) -> x509.Certificate:
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=True, data_encipherment=False, key_agreement=False,
        key_cert_sign=True, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(CA_NAME)
        .issuer_name(CA_NAME)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256(), rsa_padding=padding.PKCS1v15())
    )


def _server(
    key: rsa.RSAPrivateKey, authority: x509.Certificate, authority_key: rsa.RSAPrivateKey, host: str, now: datetime
) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])]))  # RFC 5280 appendix A: 64 at most.
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + SERVER_LIFETIME)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256(), rsa_padding=padding.PKCS1v15())
    )
