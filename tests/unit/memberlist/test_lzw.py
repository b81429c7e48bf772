"""Bad compressed bytes, and the limits of good ones. Go's own bytes are in test_vectors."""

import zlib

import pytest

from memberlist import lzw, wire
from memberlist.errors import DecodeError


def pack(*codes: int, width: int = 9) -> bytes:
    """Codes of one width, least significant bit first."""
    bits = sum(code << (width * place) for place, code in enumerate(codes))
    return bits.to_bytes((width * len(codes) + 7) // 8, "little")


def test_the_hand_packed_example_reads_as_one_byte() -> None:
    assert pack(256, 8, 257) == bytes.fromhex("00110404")
    assert lzw.decompress(pack(256, 8, 257), limit=1) == b"\x08"


def test_a_code_may_name_the_entry_it_defines() -> None:
    assert lzw.decompress(pack(65, 258, 259, 257), limit=10) == b"A" + b"AA" + b"AAA"


def test_a_stream_without_a_clear_code_at_its_start_is_read() -> None:
    assert lzw.decompress(pack(65, 66, 257), limit=10) == b"AB"


def test_bytes_after_the_end_code_are_ignored() -> None:
    assert lzw.decompress(pack(65, 257) + b"junk", limit=10) == b"A"


@pytest.mark.parametrize("codes", [(258,), (256, 300), (65, 259), (65, 66, 256, 258)])
def test_a_code_that_nothing_defined_is_refused(codes: tuple[int, ...]) -> None:
    with pytest.raises(DecodeError, match="not defined"):
        lzw.decompress(pack(*codes, 257), limit=100)


@pytest.mark.parametrize("data", [b"", b"\x00", pack(256, 65)])
def test_a_stream_that_ends_before_its_end_code_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError, match="ends before"):
        lzw.decompress(data, limit=100)


def test_no_more_than_the_limit_is_given_out() -> None:
    bomb = lzw.compress(bytes(100_000))
    assert len(bomb) < 1000
    assert len(lzw.decompress(bomb, limit=100_000)) == 100_000
    with pytest.raises(DecodeError, match="exceeds 99999"):
        lzw.decompress(bomb, limit=99_999)


def test_a_full_table_is_read_on_without_growing() -> None:
    """An encoder need not clear when its table is full; Go's does, others do not."""
    codes = [i % 250 for i in range(6000)]
    bits = bit_count = 0
    width, free = 9, 258
    output = bytearray()
    for step, code in enumerate([*codes, 257]):
        bits |= code << bit_count
        bit_count += width
        if step:
            free += free < 4096
        if free == 1 << width and width < 12:
            width += 1
        while bit_count >= 8:
            output.append(bits & 255)
            bits >>= 8
            bit_count -= 8
    assert lzw.decompress(bytes([*output, bits]), limit=10_000) == bytes(codes)


def test_a_table_that_fills_up_is_cleared_as_gos_encoder_clears_it() -> None:
    data = bytes(((i * i * 7 + i * 3) >> 3) & 255 for i in range(20_000))
    wrapped = wire.encode_compressed(lzw.compress(data))
    assert (len(wrapped), zlib.crc32(wrapped)) == (19_435, 2_701_475_285)
    assert lzw.decompress(lzw.compress(data), limit=20_000) == data


@pytest.mark.parametrize("around", [254, 766, 1790, 3837, 7674])
def test_data_comes_back_whatever_the_table_looks_like_when_it_ends(around: int) -> None:
    """Pairs that never repeat make one code a byte, so the end falls on every side of a change of width or a clear."""
    data = bytes(byte for first in range(256) for second in range(first + 1, 256, 17) for byte in (first, second))
    for length in range(around - 4, around + 5):
        assert lzw.decompress(lzw.compress(data[:length]), limit=length) == data[:length]
