"""The TLS side of the metrics port: the --tls-* options, the certificate, and its reload.

The options take what Go's crypto/tls calls things, because manifests are written that way; this module says what that
means for OpenSSL, and what Python's ssl cannot be told is reported instead of being silently dropped. The certificate
comes from a directory, or is made here at start and lives only in memory.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VERSIONS: Final[Mapping[str, ssl.TLSVersion]] = MappingProxyType(
    {
        "": ssl.TLSVersion.TLSv1_3,
        "VersionTLS12": ssl.TLSVersion.TLSv1_2,
        "VersionTLS13": ssl.TLSVersion.TLSv1_3,
    }
)

CIPHERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        # The suites for TLS 1.2 that Go calls secure, as OpenSSL names them.
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305": "ECDHE-ECDSA-CHACHA20-POLY1305",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305": "ECDHE-RSA-CHACHA20-POLY1305",
        "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
        "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
        "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
        "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    }
)
FIXED_CIPHERS: Final = frozenset({"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"})
"""The suites of TLS 1.3: always on, in Go as in Python."""

CURVES: Final[Mapping[int, str]] = MappingProxyType(
    {  # IANA "TLS Supported Groups", as OpenSSL names them.
        23: "prime256v1",
        24: "secp384r1",
        25: "secp521r1",
        29: "X25519",
        4587: "SecP256r1MLKEM768",
        4588: "X25519MLKEM768",
        4589: "SecP384r1MLKEM1024",
    }
)

LOOK_EVERY_S: Final = 10.0
LIFETIME: Final = timedelta(days=3650)  # A process makes a new one at each start, long before this.


class TlsError(Exception):
    """An option or a certificate cannot be used. The message names it and the remedy."""


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """What the three --tls-* flags mean. `ciphers` is an OpenSSL cipher list; `curve` the one group to offer."""

    min_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ciphers: str = ""
    curve: str = ""
    notes: tuple[str, ...] = ()
    """What was asked for and cannot be set; to be logged once."""


def parse_tls_options(min_version: str, cipher_suites: str, curve_preferences: str) -> TlsOptions:
    """The options in the values of --tls-min-version, --tls-cipher-suites and --tls-curve-preferences.

    Raises:
        TlsError: an unknown version, suite or curve; a curve named twice; suites together with TLS 1.3.

    """
    if min_version not in VERSIONS:
        raise TlsError(f"--tls-min-version: {min_version!r} is not one of VersionTLS12, VersionTLS13")
    version = VERSIONS[min_version]
    names = [name.strip() for name in cipher_suites.split(",") if name.strip()]
    if names and version is ssl.TLSVersion.TLSv1_3:
        raise TlsError(
            "--tls-cipher-suites has no meaning with TLS 1.3, whose suites are fixed; set --tls-min-version=VersionTLS12"
        )
    for name in names:
        if name not in CIPHERS and name not in FIXED_CIPHERS:
            raise TlsError(
                f"--tls-cipher-suites: {name!r} is not known; known are {', '.join([*CIPHERS, *sorted(FIXED_CIPHERS)])}"
            )
    curves = _curves(curve_preferences)
    notes = []
    if len(curves) > 1:
        chosen = ", ".join(str(number) for number in curves)
        notes.append(
            f"--tls-curve-preferences={chosen}: Python's ssl cannot offer a list of groups, so OpenSSL's own is offered"
        )
    curve = CURVES[curves[0]] if len(curves) == 1 else ""
    if curve and not _can_offer(curve):
        notes.append(f"--tls-curve-preferences={curves[0]}: this OpenSSL does not have {curve}, so its own groups are offered")
        curve = ""
    chosen_ciphers = ":".join(dict.fromkeys(CIPHERS[name] for name in names if name in CIPHERS))
    return TlsOptions(version, chosen_ciphers, curve, tuple(notes))


def _curves(text: str) -> list[int]:
    numbers: list[int] = []
    for part in (part.strip() for part in text.split(",")):
        if not part:
            continue
        if not part.isdecimal() or not 0 < int(part) <= 65535:
            raise TlsError(f"--tls-curve-preferences: {part!r} is no curve number (1 to 65535)")
        number = int(part)
        if number in numbers:
            raise TlsError(f"--tls-curve-preferences: {number} is named twice")
        if number not in CURVES:
            raise TlsError(f"--tls-curve-preferences: {number} is not known; known are {', '.join(map(str, CURVES))}")
        numbers.append(number)
    return numbers


def _can_offer(curve: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ecdh_curve(curve)
    except (ValueError, ssl.SSLError):
        return False
    return True


def self_signed() -> tuple[bytes, bytes]:
    """A certificate for localhost and its key, as PEM; made new at each start, never written to a disk."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "metallb-py metrics")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # For clocks that are behind.
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(serialization.Encoding.PEM), private


class ServerCertificate:
    """The TLS context for the next connection; follows tls.crt and tls.key when they are replaced.

    Raises:
        TlsError: at construction, when the files cannot be used. Later the last good pair stays, and `problem` says why.

    """

    def __init__(self, options: TlsOptions, folder: Path | None, *, clock: Callable[[], float]) -> None:
        self.problem = ""
        self._options = options
        self._folder = folder
        self._clock = clock
        self._look_at = clock() + LOOK_EVERY_S
        self._marks = self._mark()
        self._context = self._build()

    def context(self) -> ssl.SSLContext:
        """What a connection that is accepted now should use."""
        now = self._clock()
        if self._folder is not None and now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            marks = self._mark()
            if marks != self._marks:
                try:
                    self._context = self._build()
                except TlsError as error:
                    self.problem = str(error)  # Half-written, perhaps: the marks stay, so the next look tries again.
                else:
                    self._marks = marks
                    self.problem = ""
        return self._context

    def _mark(self) -> tuple[tuple[int, int] | None, ...]:
        marks: list[tuple[int, int] | None] = []
        for name in ("tls.crt", "tls.key") if self._folder else ():
            assert self._folder is not None
            try:
                state = (self._folder / name).stat()
            except OSError:
                marks.append(None)
            else:
                marks.append((state.st_mtime_ns, state.st_ino))
        return tuple(marks)

    def _build(self) -> ssl.SSLContext:
        context = server_context(self._options)
        if self._folder is None:
            load_from_memory(context, *self_signed())
            return context
        try:
            context.load_cert_chain(self._folder / "tls.crt", self._folder / "tls.key")
        except (OSError, ssl.SSLError) as error:
            raise TlsError(f"--metrics-cert-dir={self._folder}: tls.crt and tls.key cannot be used: {error}") from error
        return context


def server_context(options: TlsOptions) -> ssl.SSLContext:
    """The TLS side of a server, without a certificate yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = options.min_version
    context.set_alpn_protocols(["http/1.1"])
    if options.ciphers:
        context.set_ciphers(options.ciphers)
    if options.curve:
        context.set_ecdh_curve(options.curve)
    return context


def load_from_memory(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Let the context show this certificate to whoever connects from now on (PEM).

    Python's ssl reads certificates only from paths; this one is a file in memory.

    Raises:
        ssl.SSLError: the two do not belong together, or are no PEM.

    """
    descriptor = os.memfd_create("tls.pem", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, certificate + key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
