"""Sealed models, grants, revocation lists at any fsspec URL (s3, gs, az, https): bounded reads, a cache of ciphertext.

Only what is signed is read from afar, or what a digest pins: a trust policy.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from modelvault import _files
from modelvault.container import PRELUDE, Prelude
from modelvault.errors import FileError, ModelVaultError, UntrustedPublisher
from modelvault.keys import store

PIECE = 8 * 2**20
MAX_DOWNLOAD = 2**40
CONNECT_SECONDS, READ_SECONDS = 10, 30  # to connect, and between two pieces of an answer
_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
_VALIDATORS = ("ETag", "etag", "md5Hash", "content_md5", "Last-Modified", "LastModified", "last_modified", "mtime")


def is_url(path: str | os.PathLike[str]) -> bool:
    return isinstance(path, str) and _URL.match(path) is not None


def display(url: str | os.PathLike[str]) -> str:
    """A path, or a URL without what could be a secret in it (password, signed query): for errors and logs."""
    if not is_url(url):
        return os.fspath(url)
    try:
        parts = urlsplit(os.fspath(url))
    except ValueError:
        return os.fspath(url).partition("://")[0] + "://..."
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class RemoteFile:
    """An open remote file: its size in bytes, and reads at any offset."""

    def __init__(self, url: str, file: Any, facts: dict[str, Any]) -> None:
        self.name = display(url)
        self._file = file
        self._facts = facts
        if not isinstance(facts.get("size"), int) or facts.get("type") == "directory":
            raise FileError(f"{self.name}: its size is not known")
        self.size: int = facts["size"]

    @property
    def version(self) -> str | None:
        """What changes when the content does: size and the store's validators; None where it gives none."""
        found = [f"{key}={self._facts[key]}" for key in _VALIDATORS if self._facts.get(key)]
        return "\n".join([str(self.size), *found]) if found else None

    def read(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes from ``offset``; FileError where the store does not give them."""
        with _failures(self.name):
            self._file.seek(offset)
            data = bytes(self._file.read(size))
        if len(data) != size:
            raise FileError(f"{self.name}: file ended at byte {offset + len(data)} while it was being read")
        return data


@contextlib.contextmanager
def opened(url: str) -> Iterator[RemoteFile]:
    """Open ``url`` for reading. Raises FileError, also for a scheme whose client is not installed."""
    name = display(url)
    if "::" in url:
        raise FileError(f"{name}: chained URLs are not read")
    with _failures(name):
        import fsspec

        # A new instance each time: a cached one keeps old listings, and the event loop of a parent process.
        system, path = fsspec.core.url_to_fs(url, skip_instance_cache=True, **_limits(url))
        facts = system.info(path)
        file = system.open(path, "rb", block_size=PIECE, cache_type="none")
    with contextlib.closing(file):
        yield RemoteFile(url, file, facts)


def _limits(url: str) -> dict[str, Any]:
    """No wait without an end, as far as the store's client can be told."""
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        from aiohttp import ClientTimeout

        return {"client_kwargs": {"timeout": ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)}}
    if scheme in ("s3", "s3a"):
        limits = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, "retries": {"max_attempts": 2}}
        return {"config_kwargs": limits}
    return {}


@contextlib.contextmanager
def _failures(name: str) -> Iterator[None]:
    """Whatever a store's client raises becomes one line: there are dozens of them, with errors of their own."""
    try:
        yield
    except ModelVaultError:
        raise
    except ImportError as error:
        missing = error.name or "a client for this kind of URL"
        raise FileError(f"{name}: needs {missing} (pip install 'modelvault[remote]')") from None
    except FileNotFoundError as error:
        raise FileError(f"{name}: {_why_not_found(error)}") from None
    except PermissionError:
        raise FileError(f"{name}: permission denied") from None
    except TimeoutError:
        raise FileError(f"{name}: no answer in time") from None
    except Exception as error:
        raise FileError(f"{name}: cannot be read ({type(error).__name__})") from None


def _why_not_found(error: FileNotFoundError) -> str:
    """fsspec's HTTP client says "not found" whatever went wrong; the cause knows better."""
    cause = error.__cause__
    status = getattr(cause, "status", None)
    if status in (401, 403):
        return "permission denied"
    return "no such file" if cause is None or status in (404, 410) else f"cannot be read ({type(cause).__name__})"


def read_bytes(path: str | os.PathLike[str], *, limit: int) -> bytes:
    """A small file's whole content, from a path or URL; refused above ``limit`` bytes. Raises FileError."""
    if not is_url(path):
        return _files.read_bytes(path, limit=limit)
    with opened(os.fspath(path)) as file:
        if file.size > limit:
            raise FileError(f"{file.name}: larger than the limit of {limit} bytes")
        return file.read(0, file.size)


def read_pinned(url: str, *, limit: int) -> bytes:
    """What stands at ``URL#sha256=HEX``, for content that nobody signed. Raises FileError.

    UntrustedPublisher where no digest is named, or the content has another.
    """
    place, found, digest = url.rpartition("#sha256=")
    if not found or not re.fullmatch("[0-9a-f]{64}", digest):
        raise UntrustedPublisher(f"{display(url)}: not signed, so expected #sha256= and 64 hex digits behind its URL")
    data = read_bytes(place, limit=limit)
    if (actual := hashlib.sha256(data).hexdigest()) != digest:
        raise UntrustedPublisher(f"{display(place)}: has SHA-256 {actual}, expected {digest}")
    return data


def cache_folder() -> Path:
    return Path(os.environ.get("MODELVAULT_CACHE") or store.home() / "cache")


def fetch(url: str) -> Path:
    """The path of a local copy of the sealed model at ``url``: the cached one while the store's version is the same.

    Nothing that is not a sealed model is written, so the cache holds ciphertext only. It is trusted no more than the
    store: what is loaded from it is verified. Raises FileError, FormatError.
    """
    with opened(url) as file:
        Prelude.from_bytes(file.read(0, min(file.size, PRELUDE.size)), file.name)
        if file.size > MAX_DOWNLOAD:
            raise FileError(f"{file.name}: larger than the limit of {MAX_DOWNLOAD} bytes")
        folder, place = cache_folder(), _digest(url)
        path = folder / f"{place}-{_digest(file.version or os.urandom(16).hex())}.mvlt"
        if path.exists() and path.stat().st_size == file.size:
            return path
        with _files.failures(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _files.atomic_write(path, mode=0o600) as copy:
            for offset in range(0, file.size, PIECE):
                copy.write(file.read(offset, min(PIECE, file.size - offset)))
    for old in folder.glob(f"{place}-*.mvlt"):
        if old != path:
            old.unlink(missing_ok=True)
    return path


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
