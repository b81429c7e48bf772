"""The keys of the gossip: AES-GCM as hashicorp/memberlist uses it, and MetalLB's rule for its key.

The first key encrypts, every key may decrypt, so that a key can be changed without an outage: add it on all members, use it on
all, remove the old one on all. Called by packet.py and streams.py. Refuses to make nonces (they are passed in) and never shows
a key in its text form. Whoever holds a key is trusted fully.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from memberlist.errors import AuthError, ConfigError, DecodeError, UnsupportedError

NONCE_LENGTH: Final = 12
_TAG_LENGTH: Final = 16
_BLOCK: Final = 16
OVERHEAD: Final = 1 + NONCE_LENGTH + _TAG_LENGTH  # version byte, nonce, tag: what encryption adds to a message.
_KEY_LENGTHS: Final = (16, 24, 32)
_METALLB_KEY_LENGTH: Final = 32


def metallb_key(secret: bytes) -> bytes:
    """Return the 32-byte key that MetalLB makes of its secret's bytes.

    It is not a hash of the secret: it is the first 32 bytes of the secret followed by the SHA-256 of nothing. Nothing is
    stripped; a line break at the end of the secret counts. Mixed clusters need exactly this.
    """
    return (secret + hashlib.sha256(b"").digest())[:_METALLB_KEY_LENGTH]


class Keyring:
    """Keys in order, the first in use for encryption. ConfigError for a key that is not 16, 24 or 32 bytes long."""

    def __init__(self, primary: bytes, others: Sequence[bytes] = ()) -> None:
        self._keys: list[bytes] = []
        self._ciphers: dict[bytes, AESGCM] = {}
        for key in (primary, *others):
            self.add(key)

    def __repr__(self) -> str:
        return f"Keyring({len(self._keys)} keys)"

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: bytes) -> None:
        """Accept messages under this key from now on; nothing happens when it is known."""
        if len(key) not in _KEY_LENGTHS:
            raise ConfigError(f"gossip key has {len(key)} bytes; AES needs 16, 24 or 32")
        if key not in self._ciphers:
            self._keys.append(key)
            self._ciphers[key] = AESGCM(key)

    def use(self, key: bytes) -> None:
        """Encrypt under this key from now on; ConfigError when it was not added."""
        if key not in self._ciphers:
            raise ConfigError("gossip key is not in the ring; add it before it is used")
        self._keys.remove(key)
        self._keys.insert(0, key)

    def remove(self, key: bytes) -> None:
        """Accept this key no longer; ConfigError for the key in use."""
        if self._keys[0] == key:
            raise ConfigError("gossip key is in use; use another before it is removed")
        if key in self._ciphers:
            self._keys.remove(key)
            del self._ciphers[key]

    def encrypt(self, plaintext: bytes, *, nonce: bytes, associated: bytes) -> bytes:
        """Return version byte 1, nonce, ciphertext and tag. `nonce` is 12 bytes never used before with this key."""
        return b"\x01" + nonce + self._ciphers[self._keys[0]].encrypt(nonce, plaintext, associated)

    def encrypt_padded(self, plaintext: bytes, *, nonce: bytes, associated: bytes) -> bytes:
        """Return the version 0 form: as version 1, but padded to whole blocks (PKCS #7). For peers of protocol 1."""
        pad = _BLOCK - len(plaintext) % _BLOCK
        padded = plaintext + bytes([pad]) * pad
        return b"\x00" + nonce + self._ciphers[self._keys[0]].encrypt(nonce, padded, associated)

    def decrypt(self, data: bytes, *, associated: bytes) -> bytes:
        """Return the plaintext, which is never empty.

        Raises AuthError when no key fits, UnsupportedError for a version above 1, DecodeError for bytes too short to be
        encrypted or a padding that is not one.
        """
        if not data:
            raise DecodeError("encrypted message is empty")
        version = data[0]
        if version > 1:
            raise UnsupportedError(f"encryption version {version} is unknown")
        if len(data) < OVERHEAD + (_BLOCK if version == 0 else 0):
            raise DecodeError(f"encrypted message of {len(data)} bytes is too short")
        nonce, ciphertext = data[1 : 1 + NONCE_LENGTH], data[1 + NONCE_LENGTH :]
        for key in self._keys:
            try:
                plaintext = self._ciphers[key].decrypt(nonce, ciphertext, associated)
            except InvalidTag:
                continue
            plaintext = plaintext if version else _unpadded(plaintext)
            if not plaintext:
                raise DecodeError("encrypted message holds nothing")
            return plaintext
        raise AuthError("no key of the ring opens the message")


def _unpadded(padded: bytes) -> bytes:
    pad = padded[-1]
    if not 1 <= pad <= _BLOCK or len(padded) % _BLOCK or padded[-pad:] != bytes([pad]) * pad:
        raise DecodeError("encrypted message of version 0 is not padded as it should be")
    return padded[:-pad]
