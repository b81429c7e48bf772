"""The LZW of Go's compress/lzw in the form memberlist uses: least significant bit first, 8-bit literals.

Members compress what they send by default, so reading is needed; writing is here for the operator who turns it on and for
the tests, and gives Go's bytes exactly. Called by packet.py and streams.py. Refuses output beyond a limit given by the
caller, because a few bytes can ask for megabytes.
"""

from __future__ import annotations

from typing import Final

from memberlist.errors import DecodeError

_LITERAL_BITS: Final = 8
_CLEAR: Final = 1 << _LITERAL_BITS
_END: Final = _CLEAR + 1
_WIDTH_MAX: Final = 12
_CODES_MAX: Final = 1 << _WIDTH_MAX


def compress(data: bytes) -> bytes:
    """Return the LZW stream of the data: a clear code, the data, an end code."""
    output = bytearray()
    bits = _CLEAR
    bit_count = width = _LITERAL_BITS + 1
    highest, limit = _END, 1 << width
    table: dict[tuple[int, int], int] = {}
    prefix = -1
    for byte in data:
        if prefix < 0:
            prefix = byte
            continue
        known = table.get((prefix, byte))
        if known is not None:
            prefix = known
            continue
        bits |= prefix << bit_count
        bit_count += width
        highest += 1
        if highest == limit:
            width += 1
            limit <<= 1
        if highest == _CODES_MAX - 1:  # The table is full: say so, forget it, and start over.
            bits |= _CLEAR << bit_count
            bit_count += width
            width = _LITERAL_BITS + 1
            highest, limit = _END, 1 << width
            table.clear()
        else:
            table[prefix, byte] = highest
        prefix = byte
        whole = bit_count >> 3
        output += (bits & ((1 << (whole << 3)) - 1)).to_bytes(whole, "little")
        bits >>= whole << 3
        bit_count &= 7
    if prefix >= 0:
        bits |= prefix << bit_count
        bit_count += width
        highest += 1
        if highest == limit:
            width += 1
        if highest == _CODES_MAX - 1:
            bits |= _CLEAR << bit_count
            bit_count += width
            width = _LITERAL_BITS + 1
    bits |= _END << bit_count
    bit_count += width
    return bytes(output + bits.to_bytes((bit_count + 7) >> 3, "little"))


def decompress(data: bytes, *, limit: int) -> bytes:
    """Return the data of an LZW stream; bytes after its end code are ignored.

    Raises DecodeError when it ends early, names a code that is not in the table, or would give more than `limit` bytes.
    """
    output = bytearray()
    table: list[bytes] = []
    previous = b""
    width = _LITERAL_BITS + 1
    bits = bit_count = 0
    for byte in data:
        bits |= byte << bit_count
        bit_count += 8
        if bit_count < width:
            continue
        code = bits & ((1 << width) - 1)
        bits >>= width
        bit_count -= width
        if code == _END:
            return bytes(output)
        if code == _CLEAR:
            table.clear()
            previous = b""
            width = _LITERAL_BITS + 1
            continue
        entry = _entry(code, table, previous)
        output += entry
        if len(output) > limit:
            raise DecodeError(f"decompressed data exceeds {limit} bytes")
        next_code = _END + 1 + len(table)
        if previous and next_code < _CODES_MAX:
            table.append(previous + entry[:1])
            next_code += 1
        previous = entry
        if next_code >= 1 << width and width < _WIDTH_MAX:
            width += 1
    raise DecodeError("compressed data ends before its end code")


def _entry(code: int, table: list[bytes], previous: bytes) -> bytes:
    if code < _CLEAR:
        return bytes([code])
    index = code - _END - 1
    if index < len(table):
        return table[index]
    if index == len(table) and previous:
        return previous + previous[:1]  # The code that is being defined by this very step.
    raise DecodeError(f"compressed data names code {code}, which is not defined yet")
