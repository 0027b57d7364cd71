"""The walk over protobuf's wire format, on messages written by hand: every wire type, every way to be cut off."""

import re

import pytest

from modelvault.errors import FormatError
from modelvault.graphcheck import check_sealed_graph


def number(value: int) -> bytes:
    data = b""
    while value >= 0x80:
        data, value = data + bytes([value & 0x7F | 0x80]), value >> 7
    return data + bytes([value])


def field(tag: int, data: bytes) -> bytes:
    return number(tag << 3 | 2) + number(len(data)) + data


def pair(key: bytes, value: bytes) -> bytes:
    return field(13, field(1, key) + field(2, value))


def model(tensor: bytes) -> bytes:
    """A tensor as initializer of a model's graph."""
    return field(7, field(5, tensor))


WEIGHTS = pair(b"location", b"weights")


def verdict(data: bytes, region: int = 64) -> str:
    try:
        check_sealed_graph(data, region, "m")
    except FormatError as error:
        assert str(error).startswith("m: graph: ")
        return str(error).removeprefix("m: graph: ")
    return "fine"


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (WEIGHTS, "fine"),
        (WEIGHTS + pair(b"offset", b"32") + pair(b"length", b"32"), "fine"),
        (WEIGHTS + pair(b"offset", b"64"), "fine"),
        (WEIGHTS + pair(b"offset", b"33") + pair(b"length", b"32"), "a weight ends beyond the weights region"),
        (WEIGHTS + pair(b"length", b"65"), "a weight ends beyond the weights region"),
        (WEIGHTS + pair(b"offset", b"-1"), "external data offset or length is not a number"),
        (WEIGHTS + pair(b"length", b""), "external data offset or length is not a number"),
        (WEIGHTS + pair(b"length", b"0" * 18), "fine"),
        (WEIGHTS + pair(b"length", b"0" * 19), "external data offset or length is not a number"),
        (pair(b"location", b"weights2"), "refers to a file outside the sealed model"),
        (pair(b"location", b""), "refers to a file outside the sealed model"),
        (field(13, field(1, b"location")), "refers to a file outside the sealed model"),
        (WEIGHTS + WEIGHTS, "external data names b'location' twice"),
        (WEIGHTS + pair(b"k" * 30, b"") * 2, f"external data names {b'k' * 20!r} twice"),
        (WEIGHTS + field(13, b"") * 2, "external data names b'' twice"),
        (WEIGHTS + field(13, field(1, b"offset")), "external data offset or length is not a number"),
        (WEIGHTS + field(13, b"\x0a\x7f"), "protobuf field runs over its end"),
        (pair(b"offset", b"0") + pair(b"note", b"location"), "fine"),
    ],
)
def test_references(entries: bytes, words: str) -> None:
    assert verdict(model(entries)) == words
    # beside other fields of every wire type, which are passed over
    beside = b"\x08\x96\x01" + b"\x11" + b"\x0f" * 8 + b"\x1d" + b"\x0f" * 4 + field(9, b"location" + bytes(9))
    assert verdict(beside + field(7, beside + field(5, beside + entries + beside) + beside) + beside) == words


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x3a\x7flocation", "protobuf field runs over its end"),
        (b"\x3a\x08location", "protobuf wire type 4 is not used by ONNX"),  # "l" is a tag
        (b"\x0blocation", "protobuf wire type 3 is not used by ONNX"),
        (b"\x0flocation", "protobuf wire type 7 is not used by ONNX"),
        (field(9, b"location") + b"\x80", "protobuf number is cut off"),
        (field(9, b"location") + b"\x08", "protobuf number is cut off"),
        (field(9, b"location") + b"\x08" + b"\xff" * 10, "protobuf number is cut off"),
        (field(9, b"location") + b"\x08" + b"\xff" * 10 + b"\x01", "protobuf number is cut off"),
        (field(9, b"location") + b"\x08" + b"\xff" * 9 + b"\x01", "fine"),
        (field(9, b"location") + b"\x0a\xff\xff\xff\xff\x0f", "protobuf field runs over its end"),
        (field(9, b"location") + b"\x0a\x05", "protobuf field runs over its end"),
        (field(9, b"location") + b"\x0a\x80", "protobuf number is cut off"),
        (b"location", "protobuf wire type 4 is not used by ONNX"),
        (b"", "fine"),
        (b"\x0blocatio", "fine"),  # without the word nothing can refer to a file, and nothing is read
    ],
)
def test_bytes_that_are_no_message(data: bytes, words: str) -> None:
    assert verdict(data) == words


@pytest.mark.parametrize(("tag", "inside"), [(1, False), (2, False), (5, True), (7, False), (15, False)])
def test_only_tensors_are_taken_for_tensors(tag: int, inside: bool) -> None:
    bad = pair(b"location", b"secret")
    assert (verdict(field(7, field(tag, bad))) != "fine") == inside


def test_depth() -> None:
    """A node's attribute holds a graph holds a node: a hundred messages may lie in one another, and no more."""

    tensor = pair(b"location", b"secret")

    def nested(levels: int, data: bytes = field(5, tensor)) -> bytes:
        for _ in range(levels):
            data = field(1, field(5, field(6, data)))
        return field(7, data)

    # model 0, graph 1, and then three messages a level, and the tensor
    assert verdict(nested(32)) == "refers to a file outside the sealed model"
    assert verdict(nested(33)) == "nested too deeply"
    assert verdict(nested(60)) == "nested too deeply"
    in_attribute, in_sparse = field(1, field(5, field(5, tensor))), field(1, field(5, field(22, field(1, tensor))))
    assert verdict(nested(32, in_attribute)) == "refers to a file outside the sealed model"  # 100 of them
    assert verdict(nested(32, in_sparse)) == "nested too deeply"  # 101


def test_messages_without_the_word_are_not_read() -> None:
    good, unread = model(WEIGHTS), field(7, b"\x0f")
    assert verdict(good + unread) == verdict(unread + good) == "fine"


def test_errors_name_the_source() -> None:
    with pytest.raises(FormatError, match=re.escape("here: graph: protobuf field runs over its end")):
        check_sealed_graph(b"\x3a\x7flocation", 0, "here")
