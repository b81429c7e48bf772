"""Keys: which are taken, which opens what, and what never shows."""

import pytest

from memberlist.errors import AuthError, ConfigError, DecodeError, UnsupportedError
from memberlist.keyring import OVERHEAD, Keyring, metallb_key

OLD, NEW = b"o" * 16, b"n" * 32
NONCE = bytes(12)


def sealed(key: bytes, text: bytes = b"hello") -> bytes:
    return Keyring(key).encrypt(text, nonce=NONCE, associated=b"aad")


@pytest.mark.parametrize(
    ("secret", "key"),
    [
        (b"AAECAwQFBgcICQoLDA0ODw", b"AAECAwQFBgcICQoLDA0ODw" + bytes.fromhex("e3b0c44298fc1c149afb")),
        (b"AAECAwQFBgcICQoLDA0ODw\n", b"AAECAwQFBgcICQoLDA0ODw\n" + bytes.fromhex("e3b0c44298fc1c149a")),
        (b"x" * 40, b"x" * 32),
        (b"", bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")),
    ],
)
def test_metallbs_key_is_the_secret_and_then_the_hash_of_nothing(secret: bytes, key: bytes) -> None:
    assert metallb_key(secret) == key


@pytest.mark.parametrize("length", [0, 15, 17, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ConfigError, match=f"{length} bytes"):
        Keyring(bytes(length))


def test_keys_change_without_an_outage_add_use_remove() -> None:
    keyring = Keyring(OLD)
    keyring.add(NEW)
    keyring.add(NEW)
    assert len(keyring) == 2
    assert keyring.encrypt(b"m", nonce=NONCE, associated=b"") == Keyring(OLD).encrypt(b"m", nonce=NONCE, associated=b"")
    assert keyring.decrypt(sealed(NEW), associated=b"aad") == b"hello"
    keyring.use(NEW)
    assert keyring.encrypt(b"m", nonce=NONCE, associated=b"") == Keyring(NEW).encrypt(b"m", nonce=NONCE, associated=b"")
    assert keyring.decrypt(sealed(OLD), associated=b"aad") == b"hello"
    keyring.remove(OLD)
    keyring.remove(OLD)
    with pytest.raises(AuthError):
        keyring.decrypt(sealed(OLD), associated=b"aad")


def test_the_key_in_use_stays_and_an_unknown_one_is_not_used() -> None:
    keyring = Keyring(OLD, [NEW])
    with pytest.raises(ConfigError, match="in use"):
        keyring.remove(OLD)
    with pytest.raises(ConfigError, match="not in the ring"):
        keyring.use(b"x" * 16)


def test_what_is_authenticated_must_match() -> None:
    assert len(sealed(OLD)) == len(b"hello") + OVERHEAD
    with pytest.raises(AuthError):
        Keyring(OLD).decrypt(sealed(OLD), associated=b"other")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", DecodeError),
        (b"\x01" + bytes(27), DecodeError),
        (b"\x00" + bytes(43), DecodeError),
        (b"\x02" + bytes(60), UnsupportedError),
    ],
)
def test_what_cannot_be_an_encrypted_message_is_refused(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        Keyring(OLD).decrypt(data, associated=b"")


def test_an_encrypted_nothing_is_refused() -> None:
    with pytest.raises(DecodeError, match="nothing"):
        Keyring(OLD).decrypt(sealed(OLD, b""), associated=b"aad")
    with pytest.raises(DecodeError, match="nothing"):
        Keyring(OLD).decrypt(Keyring(OLD).encrypt_padded(b"", nonce=NONCE, associated=b""), associated=b"")


@pytest.mark.parametrize(
    "padded", [b"x" * 15 + b"\x00", b"x" * 15 + b"\x11", b"x" * 14 + b"\x01\x02", b"x" * 31 + b"\x20", b"x" * 16 + b"\x01"]
)
def test_a_padding_that_is_none_is_refused(padded: bytes) -> None:
    data = b"\x00" + Keyring(OLD).encrypt(padded, nonce=NONCE, associated=b"")[1:]
    with pytest.raises(DecodeError, match="padded"):
        Keyring(OLD).decrypt(data, associated=b"")


@pytest.mark.parametrize("length", range(1, 40))
def test_padding_is_taken_off_again_at_any_length(length: int) -> None:
    data = Keyring(OLD).encrypt_padded(bytes(length), nonce=NONCE, associated=b"l")
    assert Keyring(OLD).decrypt(data, associated=b"l") == bytes(length)


def test_no_key_shows_in_the_text_form() -> None:
    assert repr(Keyring(OLD, [NEW])) == "Keyring(2 keys)"
