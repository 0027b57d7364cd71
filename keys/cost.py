"""What an encrypted private key asks for before it opens: the file itself names the work of its key derivation."""

import base64
import binascii
from collections.abc import Iterator

from modelvault.errors import FormatError, KeyUnavailable

MAX_SCRYPT = 2**23  # N x r x p: 1 GiB of memory, eight times what this version writes
MAX_ITERATIONS = 10_000_000
SCRYPT = bytes.fromhex("2b06010401da47040b")
_INTEGER, _OBJECT, _SEQUENCE = 0x02, 0x06, 0x30


def check_cost(block: bytes, source: str) -> None:
    """FormatError for an ENCRYPTED PRIVATE KEY block whose derivation would take unreasonable time or memory.

    KeyUnavailable where that cannot be read.
    """
    try:
        der = base64.b64decode(b"".join(block.splitlines()[1:-1]), validate=True)
        found = list(_elements(_first(_first(der))))  # EncryptedPrivateKeyInfo, its AlgorithmIdentifier
    except (binascii.Error, IndexError, RecursionError):
        raise KeyUnavailable(f"{source}: wrong passphrase, or a damaged file") from None
    numbers = [int.from_bytes(body, "big") for tag, body in found if tag == _INTEGER]
    if (_OBJECT, SCRYPT) in found:
        work, limit = _product(numbers[:3]), MAX_SCRYPT
    else:
        work, limit = max(numbers, default=0), MAX_ITERATIONS
    if work > limit:
        raise FormatError(f"{source}: its passphrase costs {work:.3g} units of work, above the limit of {limit:.3g}")


def _product(numbers: list[int]) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result


def _first(data: bytes) -> bytes:
    """The body of the element that ``data`` begins with."""
    for _, body in _bodies(data):
        return body
    return b""


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, body) of everything below, in order, sequences opened."""
    for tag, body in _bodies(data):
        if tag == _SEQUENCE:
            yield from _elements(body)
        else:
            yield tag, body


def _bodies(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, body) of the DER elements in ``data``; IndexError where one has no length, or too long a one."""
    at = 0
    while at < len(data):
        tag, size, start = data[at], data[at + 1], at + 2
        if size & 0x80:
            start += size & 0x7F
            size = int.from_bytes(data[at + 2 : start], "big")
        if start + size > len(data) or data[at + 1] == 0x80:
            raise IndexError
        yield tag, data[start : start + size]
        at = start + size
