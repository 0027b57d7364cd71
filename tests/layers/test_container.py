"""The sealed file's layout, byte by byte."""

import re
from typing import Any

import pytest

from modelvault.container import MAX_ENVELOPE, MAX_GRANT_COUNT, MAX_GRANTS, PRELUDE, Header, Prelude, payload_offset
from modelvault.errors import FormatError

MAGIC = b"\x89MVLT\r\n\x1a"


def refused(words: str) -> Any:
    return pytest.raises(FormatError, match=rf"^{re.escape(words)}$")


def prelude(
    magic: bytes = MAGIC, version: int = 1, reserved: int = 0, envelope: int = 2, grants: int = 0, offset: int = 4096
) -> bytes:
    sizes = ((version, 2), (reserved, 2), (envelope, 4), (grants, 4), (offset, 8))
    return magic + b"".join(value.to_bytes(size, "big") for value, size in sizes)


def test_a_file_s_first_bytes() -> None:
    assert PRELUDE.size == 28 == len(prelude())
    header = Header(envelope=b"{}", grants=(b"one", b"four"))
    assert header.length == 28 + 2 + (4 + 3) + (4 + 4)
    data = header.to_bytes(4096)
    assert data == (prelude(grants=15) + b"{}\0\0\0\x03one\0\0\0\x04four").ljust(4096, b"\0")
    assert Prelude.from_bytes(data[:28], "f") == Prelude(envelope=2, grants=15, payload_offset=4096)
    assert Header.from_bytes(data, "f") == header
    assert Header.from_bytes(prelude() + b"{}" + bytes(4066), "f") == Header(envelope=b"{}", grants=())


@pytest.mark.parametrize(("length", "offset"), [(30, 4096), (4096, 4096), (4097, 8192), (8192, 8192), (8193, 12288)])
def test_where_the_payload_begins(length: int, offset: int) -> None:
    assert payload_offset(length) == offset
    header = Header(envelope=bytes([32] * (length - 28)), grants=())
    assert header.length == length
    assert len(header.to_bytes(offset)) == offset


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "prelude: 0 bytes, expected 28"),
        (prelude()[:27], "prelude: 27 bytes, expected 28"),
        (prelude(magic=b"\x89MVLT\r\n\x1b"), "not a sealed model (wrong magic)"),
        (prelude(version=2), "version: expected 1, got 2"),
        (prelude(reserved=1), "reserved: expected 0, got 1"),
        (prelude(envelope=0), f"envelope_len: expected 1 to {2**24}, got 0"),
        (prelude(envelope=2**24 + 1), f"envelope_len: expected 1 to {2**24}, got {2**24 + 1}"),
        (prelude(grants=2**26 + 1), f"grants_len: above the limit of {2**26}: {2**26 + 1}"),
        (prelude(offset=0), "payload_offset: 0 does not follow the header"),
        (prelude(offset=4095), "payload_offset: 4095 does not follow the header"),
        (prelude(offset=4096, envelope=4069), "payload_offset: 4096 does not follow the header"),
        (prelude(offset=12288, envelope=4068), "payload_offset: 12288 does not follow the header"),
        (prelude(offset=2**64 - 4096), f"payload_offset: {2**64 - 4096} does not follow the header"),
    ],
)
def test_preludes_that_are_refused(data: bytes, words: str) -> None:
    with refused(f"f: {words}"):
        Prelude.from_bytes(data, "f")


def test_limits_are_inclusive() -> None:
    assert (MAX_ENVELOPE, MAX_GRANTS, MAX_GRANT_COUNT) == (16 * 2**20, 64 * 2**20, 65_535)
    largest = PRELUDE.size + MAX_ENVELOPE + MAX_GRANTS
    found = Prelude.from_bytes(prelude(envelope=MAX_ENVELOPE, grants=MAX_GRANTS, offset=payload_offset(largest)), "f")
    assert (found.envelope, found.grants) == (MAX_ENVELOPE, MAX_GRANTS)
    assert Prelude.from_bytes(prelude(envelope=1), "f").envelope == 1
    assert Prelude.from_bytes(prelude(envelope=4068), "f").payload_offset == 4096  # no padding at all
    assert Prelude.from_bytes(prelude(envelope=4069, offset=12288), "f").payload_offset == 12288  # the most


@pytest.mark.parametrize(
    ("grants", "number"),
    [
        (b"\0\0\0\x01", 0),  # no byte of it
        (b"\0\0\0\x01ab", 1),  # three bytes too few for a length
        (b"\0\0\0\0", 0),  # empty
        (b"\0\0\0\x01a\0\0\0\x02b", 1),
        (b"\0\0\0", 0),
        (b"\xff\xff\xff\xff" + bytes(20), 0),
    ],
)
def test_grants_that_do_not_fit(grants: bytes, number: int) -> None:
    data = (prelude(grants=len(grants)) + b"{}" + grants).ljust(4096, b"\0")
    with refused(f"f: grants[{number}]: length does not fit"):
        Header.from_bytes(data, "f")


def test_as_many_grants_as_may_be() -> None:
    header = Header(envelope=b"{}", grants=(b"g",) * MAX_GRANT_COUNT)
    data = header.to_bytes(payload_offset(header.length))
    assert Header.from_bytes(data, "f") == header
    more = Header(envelope=b"{}", grants=(b"g",) * (MAX_GRANT_COUNT + 1))
    with refused(f"f: grants: more than {MAX_GRANT_COUNT}"):
        Header.from_bytes(more.to_bytes(payload_offset(more.length)), "f")


def test_headers_of_another_length() -> None:
    data = Header(envelope=b"{}", grants=()).to_bytes(4096)
    for bad in (data[:-1], data + b"\0"):
        with refused(f"f: header: expected 4096 bytes, got {len(bad)}"):
            Header.from_bytes(bad, "f")
    with refused("f: not a sealed model (wrong magic)"):
        Header.from_bytes(b"x" + data[1:], "f")
    for at in (30, 2000, 4095):
        with refused("f: padding: expected zeros"):
            Header.from_bytes(data[:at] + b"\x01" + data[at + 1 :], "f")


def test_a_writer_cannot_write_what_a_reader_refuses() -> None:
    with refused("header: payload_offset: 4000 does not follow the header"):
        Header(envelope=b"{}", grants=()).to_bytes(4000)
    with refused(f"header: envelope_len: expected 1 to {2**24}, got 0"):
        Header(envelope=b"", grants=()).to_bytes(4096)
