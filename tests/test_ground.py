"""The ground floor: codecs, files, memory, and the encryption stream's arithmetic."""

import contextlib
import errno
import json
import os
import pickle
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault import _codec, _files
from modelvault._memory import SecureBuffer, wipe_bytes
from modelvault._primitives import CHUNK, ExtentDecryptor, ExtentEncryptor, plain_length, sealed_length
from modelvault.errors import FileError, FormatError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_json_round_trip_is_canonical(value: Any) -> None:
    data = _codec.json_encode(value)
    assert _codec.json_decode(data, "f", limit=10**6) == value
    assert _codec.json_encode(json.loads(data)) == data


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_a_format_error(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        _codec.json_decode(data, "f", limit=10**6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"a":1,"a":2}', "a key is repeated"),
        (b"[NaN]", "not a number"),
        (b"[1e999]", "out of range"),
        (b'["\\ud800"]', "not UTF-8"),
        (b"\xff", "not UTF-8"),
        (b"[" * 40 + b"]" * 40, "nested too deeply"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "not valid JSON"),
    ],
)
def test_json_that_is_refused(text: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        _codec.json_decode(text, "f", limit=10**6)


def test_json_limit() -> None:
    with pytest.raises(FormatError, match="f: 3 bytes, above the limit of 2"):
        _codec.json_decode(b"[1]", "f", limit=2)


@given(st.binary(max_size=64))
def test_base64_has_one_spelling(data: bytes) -> None:
    text = _codec.b64encode(data)
    assert _codec.b64decode(text, "f") == data
    for other in (text + "=", text + "\n", " " + text, text.rstrip("=")):
        if other != text:
            with pytest.raises(FormatError):
                _codec.b64decode(other, "f")


def test_base64_padding_bits_must_be_zero() -> None:
    assert _codec.b64decode("AA==", "f") == b"\0"
    with pytest.raises(FormatError, match="not canonical"):
        _codec.b64decode("AB==", "f")


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 30)), st.integers(-720, 720))
def test_times_round_trip(moment: datetime, minutes: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    assert _codec.parse_time(_codec.format_time(aware), "f") == aware


def test_a_time_needs_a_zone() -> None:
    assert _codec.format_time(datetime(2026, 1, 2, tzinfo=UTC)) == "2026-01-02T00:00:00Z"
    with pytest.raises(FormatError, match="the time has no zone"):
        _codec.parse_time("2026-01-02T00:00:00", "f")


def test_fields_name_what_is_wrong() -> None:
    for value, take, words in (
        ([], lambda f: None, "p: expected an object, got list"),
        ({"a": 1}, lambda f: f.text("a"), "p.a: expected text, got int"),
        ({"a": True}, lambda f: f.integer("a"), "p.a: expected an integer, got bool"),
        ({"a": -1}, lambda f: f.integer("a"), "p.a: expected 0 to"),
        ({"a": "x" * 9}, lambda f: f.text("a", limit=8), "p.a: longer than 8"),
        ({"a": [1]}, lambda f: f.texts("a"), "p.a: expected a list of texts"),
        ({"a": [1] * 3}, lambda f: f.items("a", limit=2), "p.a: more than 2 items"),
        ({}, lambda f: f.boolean("a"), "p.a: missing"),
        ({"a": "AA=="}, lambda f: f.binary("a", size=2), "p.a: expected 2 bytes, got 1"),
        ({"a": "A" * 64}, lambda f: f.digest("a"), "p.a: expected 64 hex digits"),
        ({"b": 1}, lambda f: f.done(), "p: unknown key 'b'"),
    ):
        with pytest.raises(FormatError, match=words):
            take(_codec.Fields(value, "p"))


@pytest.mark.parametrize(
    "location", ["", "/etc/passwd", "../x", "a/../../x", "a\\b", "C:/x", "x\0", ".", "a/..", "//x", "./.."]
)
def test_paths_that_leave_their_folder(location: str, tmp_path: Path) -> None:
    with pytest.raises(FileError):
        _files.open_inside(tmp_path, location)


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"x")
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "link").symlink_to("real/file")
    os.close(_files.open_inside(tmp_path, "real/file"))
    for location in ("folder/file", "link"):
        with pytest.raises(FileError, match="is a symbolic link"):
            _files.open_inside(tmp_path, location)


def test_what_is_no_regular_file_never_blocks(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        with pytest.raises(FileError, match="not a regular file"):
            _files.read_bytes(path, limit=10)


def test_reading_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(11))
    with pytest.raises(FileError, match="larger than the limit of 10"):
        _files.read_bytes(tmp_path / "f", limit=10)


def test_an_atomic_write_leaves_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    _files.write_bytes(path, b"old")
    with pytest.raises(RuntimeError), _files.atomic_write(path) as file:
        file.write(b"new")
        raise RuntimeError

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match="f: no space left on device"):
        _files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk(tmp_path: Path) -> None:
    full = "/dev/full"
    with open(full, "wb", buffering=0) as file, pytest.raises(FileError, match="no space left"), _files.failures(full):
        file.write(b"x")


@given(st.integers(0, 10 * CHUNK))
def test_stream_lengths(plain: int) -> None:
    assert plain_length(sealed_length(plain)) == plain


@given(st.integers(0, 5 * CHUNK))
def test_impossible_stream_lengths(sealed: int) -> None:
    with contextlib.suppress(FormatError):
        assert sealed_length(plain_length(sealed)) == sealed


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_the_stream_has_the_length_we_compute(size: int) -> None:
    encryptor = ExtentEncryptor(bytes(32), b"here")
    data = encryptor.update(bytes(size)) + encryptor.finalize()
    assert len(data) == sealed_length(size)
    decryptor = ExtentDecryptor(bytes(32), b"here")
    assert decryptor.update(data) + decryptor.finalize() == bytes(size)


def test_secure_buffer_is_wiped() -> None:
    buffer = SecureBuffer(3 * 2**20)
    buffer.view[:6] = b"secret"
    kept = buffer.view[:6]
    buffer.wipe()  # a view still stands: zeros, not an error
    assert bytes(kept) == bytes(6)
    buffer.wipe()
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        pickle.dumps(buffer)
    assert "secret" not in repr(buffer)


def test_secure_buffer_is_left_out_of_dumps() -> None:
    buffer = SecureBuffer(4 * 2**20)
    buffer.view[0] = 1
    flags, inside = "", False
    import ctypes

    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer.view))
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0] and ":" not in line.split()[0]:
            low, high = (int(x, 16) for x in line.split()[0].split("-"))
            inside = low <= address < high
        elif inside and line.startswith("VmFlags"):
            flags = line
    assert " dd" in flags
    assert not buffer.locked or " lo" in flags


def test_wipe_bytes() -> None:
    data = bytes([1, 2, 3]) * 100
    wipe_bytes(data)
    assert data == bytes(300)
    wipe_bytes(b"")
    wipe_bytes(b"a")
    assert bytes([97]) == b"a"
