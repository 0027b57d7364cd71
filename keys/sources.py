"""Key text that stands in no file: ``env:NAME``, ``fd:N`` and ``keyring:NAME`` (docs/KEYS.md)."""

import errno
import os

from modelvault._files import reason
from modelvault.errors import FormatError, KeyUnavailable

KEYRING_SERVICE = "modelvault"
SCHEMES = ("env", "fd", "keyring")


def is_source(reference: str) -> bool:
    return reference.partition(":")[0] in SCHEMES and ":" in reference


def read(reference: str, *, limit: int) -> bytes:
    """The text behind ``reference``: KeyUnavailable where there is none, FormatError above ``limit`` bytes.

    A file descriptor is read to its end once, so it serves one key.
    """
    scheme, _, name = reference.partition(":")
    data = {"env": _environment, "fd": _descriptor, "keyring": _keyring}[scheme](reference, name, limit)
    if not data:
        raise KeyUnavailable(f"{reference}: empty or not there")
    if len(data) > limit:
        raise FormatError(f"{reference}: larger than the limit of {limit} bytes")
    return data


def _environment(reference: str, name: str, limit: int) -> bytes:
    return os.environ.get(name, "").encode()


def _descriptor(reference: str, name: str, limit: int) -> bytes:
    if not name.isdecimal() or len(name) > 6:
        raise FormatError(f"{reference}: expected the number of an open file descriptor")
    data = b""
    try:
        while len(data) <= limit and (piece := os.read(int(name), limit + 1 - len(data))):
            data += piece
    except OSError as error:
        words = "not open for reading" if error.errno == errno.EBADF else reason(error)
        raise KeyUnavailable(f"{reference}: {words}") from None
    return data


def _keyring(reference: str, name: str, limit: int) -> bytes:
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        raise KeyUnavailable(f"{reference}: needs the package keyring (pip install 'modelvault[keyring]')") from None
    try:
        return (keyring.get_password(KEYRING_SERVICE, name) or "").encode()
    except KeyringError as error:
        raise KeyUnavailable(f"{reference}: the keyring does not answer ({type(error).__name__})") from None
