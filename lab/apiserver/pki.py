"""Keys and certificates of the server: its own CA, its serving certificate, others on demand (made by trustme).

Files live in the state directory and are made once, so that kubeconfigs stay valid over restarts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import trustme

DNS_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, PEM files."""

    certificate: Path
    key: Path

    def write(self, certificate: trustme.Blob, key: trustme.Blob) -> None:
        """Fill the files; the key is for its owner only."""
        self.key.touch(mode=0o600)
        self.key.write_bytes(key.bytes())
        self.certificate.write_bytes(certificate.bytes())


class Authority:
    """The CA in a directory; made when it is not there."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        pair = Pair(directory / "ca.crt", directory / "ca.key")
        self.certificate_path = pair.certificate
        if not (pair.certificate.exists() and pair.key.exists()):
            made = trustme.CA(organization_unit_name="lab-apiserver-ca")
            pair.write(made.cert_pem, made.private_key_pem)
        self._ca = trustme.CA.from_pem(pair.certificate.read_bytes(), pair.key.read_bytes())

    def issue(self, stem: str, common_name: str, *, names: Iterable[str] = (), addresses: Iterable[str] = ()) -> Pair:
        """A certificate signed by this CA; the one on disk if it is for the same names and addresses."""
        pair, holders = (
            Pair(self._directory / f"{stem}.crt", self._directory / f"{stem}.key"), self._directory / f"{stem}.names",
        )  # fmt: skip
        identities = [*names, *sorted(set(addresses))]
        wanted = "\n".join(identities)
        if not (pair.certificate.exists() and holders.exists() and holders.read_text(encoding="utf-8") == wanted):
            made = self._ca.issue_cert(*identities, common_name=common_name, organization_unit_name="lab")
            pair.write(made.cert_chain_pems[0], made.private_key_pem)
            holders.write_text(wanted, encoding="utf-8")
        return pair
