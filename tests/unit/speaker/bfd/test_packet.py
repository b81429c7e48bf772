"""The control packet against RFC 5880 section 4.1 and the first steps of section 6.8.6."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speaker.bfd.packet import ControlPacket, Diagnostic, PacketError, Refusal, State, decode, encode

UP = ControlPacket(
    state=State.UP,
    my_discriminator=0x01020304,
    your_discriminator=0x0A0B0C0D,
    desired_min_tx_us=300_000,
    required_min_rx_us=1_000_000,
    detect_multiplier=3,
)
WIRE = bytes.fromhex("20c00318 01020304 0a0b0c0d 000493e0 000f4240 00000000")


@pytest.mark.rfc(5880, "4.1")
def test_a_packet_is_laid_out_as_the_rfc_says() -> None:
    assert encode(UP) == WIRE
    assert decode(WIRE) == UP


@pytest.mark.rfc(5880, "4.1")
@pytest.mark.parametrize(
    ("change", "byte", "value"),
    [
        ({"poll": True}, 1, 0xE0),
        ({"final": True}, 1, 0xD0),
        ({"control_plane_independent": True}, 1, 0xC8),
        ({"demand": True}, 1, 0xC2),
        ({"diagnostic": Diagnostic.NEIGHBOR_SIGNALED_DOWN}, 0, 0x23),
        ({"diagnostic": 31}, 0, 0x3F),
        ({"state": State.INIT}, 1, 0x80),
        ({"detect_multiplier": 255}, 2, 255),
        ({"required_min_echo_rx_us": 255}, 23, 255),
    ],
)
def test_each_field_is_where_it_belongs(change: dict[str, int], byte: int, value: int) -> None:
    changed = replace(UP, **change)  # type: ignore[arg-type]  # The fields are of several types.
    assert encode(changed)[byte] == value
    assert decode(encode(changed)) == changed


U32 = st.integers(0, 2**32 - 1)


@given(
    st.builds(
        ControlPacket,
        state=st.sampled_from(State),
        my_discriminator=st.integers(1, 2**32 - 1),
        your_discriminator=st.integers(1, 2**32 - 1),
        desired_min_tx_us=U32,
        required_min_rx_us=U32,
        required_min_echo_rx_us=U32,
        detect_multiplier=st.integers(1, 255),
        diagnostic=st.integers(0, 31),
        poll=st.booleans(),
        demand=st.booleans(),
        control_plane_independent=st.booleans(),
    )
)
def test_every_packet_comes_back(packet: ControlPacket) -> None:
    assert decode(encode(packet)) == packet


def changed(at: int, value: int, data: bytes = WIRE) -> bytes:
    return data[:at] + bytes([value]) + data[at + 1 :]


@pytest.mark.rfc(5880, "6.8.6")
@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (b"", Refusal.SHORT),
        (WIRE[:23], Refusal.SHORT),
        (changed(0, 0x00), Refusal.VERSION),
        (changed(0, 0x40), Refusal.VERSION),
        (changed(3, 23), Refusal.LENGTH),
        (changed(3, 25), Refusal.LENGTH),
        (changed(1, 0xC4), Refusal.LENGTH),  # Authentication needs 26 bytes.
        (changed(3, 26, changed(1, 0xC4)) + b"\x01\x02", Refusal.AUTHENTICATION),
        (changed(2, 0), Refusal.MULTIPLIER),
        (changed(1, 0xC1), Refusal.MULTIPOINT),
        (WIRE[:4] + bytes(4) + WIRE[8:], Refusal.NO_DISCRIMINATOR),
        (WIRE[:8] + bytes(4) + WIRE[12:], Refusal.NOBODY),
        (changed(1, 0x80, WIRE[:8] + bytes(4) + WIRE[12:]), Refusal.NOBODY),
        (changed(1, 0xF0), Refusal.POLL_AND_FINAL),
    ],
)
def test_what_must_be_discarded_is_refused_by_its_reason(data: bytes, refusal: Refusal) -> None:
    with pytest.raises(PacketError) as refused:
        decode(data)
    assert refused.value.refusal is refusal


@pytest.mark.rfc(5880, "6.8.6")
@pytest.mark.parametrize("state", [0x00, 0x40])
def test_who_is_down_may_not_know_us_yet(state: int) -> None:
    data = changed(1, state, WIRE[:8] + bytes(4) + WIRE[12:])
    assert decode(data).your_discriminator == 0


def test_bytes_behind_the_packet_are_ignored() -> None:
    assert decode(WIRE + b"more") == UP


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_but_a_refusal(data: bytes) -> None:
    try:
        packet = decode(data)
    except PacketError:
        return
    assert encode(packet)[:1] == data[:1]
