"""A sealed file on disk: open it once, read its bounded header, hash its payload in parallel."""

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from modelvault import _files, merkle, remote
from modelvault._memory import pages
from modelvault.container import MAX_ENVELOPE, PRELUDE, Header, Prelude
from modelvault.envelope import Envelope
from modelvault.errors import FileError, FormatError, PayloadTampered
from modelvault.manifest import BLOCK, MAX_GRANT, Extent, GrantStatement, ModelStatement

T = TypeVar("T")
Progress = Callable[[int], None]
MAX_GRANT_ENVELOPE = 4 * MAX_GRANT


@dataclass(frozen=True, slots=True, kw_only=True)
class UnverifiedGrant:
    """A grant as read: nobody has checked its signature yet."""

    envelope: Envelope
    statement: GrantStatement

    @classmethod
    def from_bytes(cls, data: bytes, source: str) -> "UnverifiedGrant":
        envelope = Envelope.from_bytes(data, source, limit=MAX_GRANT_ENVELOPE)
        return cls(envelope=envelope, statement=GrantStatement.from_bytes(envelope.payload, source))


class SealedFile:
    """An open sealed file whose header parsed; nothing of it is verified. Use as a context manager.

    A URL is fetched into the cache of ciphertext first.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(remote.display(path))
        local = remote.fetch(os.fspath(path)) if remote.is_url(path) else path
        with _files.failures(path):
            self.descriptor = _files.open_regular(local)
        try:
            self._parse()
        except BaseException:
            self.close()
            raise

    def _parse(self) -> None:
        name = str(self.path)
        self._scratch = threading.local()
        size = self._size()
        start = bytearray(min(size, PRELUDE.size))
        self._read(memoryview(start), 0)
        prelude = Prelude.from_bytes(bytes(start), name)
        if prelude.payload_offset > size:
            raise FormatError(f"{name}: file ends inside its header")
        header = bytearray(prelude.payload_offset)
        self._read(memoryview(header), 0)
        self.header = Header.from_bytes(bytes(header), name)
        self.payload_offset = prelude.payload_offset
        self.envelope = Envelope.from_bytes(self.header.envelope, f"{name}: envelope", limit=MAX_ENVELOPE)
        self.statement = ModelStatement.from_bytes(self.envelope.payload, f"{name}: statement")
        expected = self.payload_offset + self.statement.payload_size
        if size != expected:
            raise FormatError(f"{name}: payload: file has {size} bytes, expected {expected}")

    @property
    def statement_digest(self) -> bytes:
        """SHA-256 of the statement's bytes: what grants and audit records name the model by."""
        return hashlib.sha256(self.envelope.payload).digest()

    def grants(self) -> Iterator[UnverifiedGrant]:
        """The embedded grants, in file order, each parsed when it is asked for."""
        for number, data in enumerate(self.header.grants):
            yield UnverifiedGrant.from_bytes(data, f"{self.path}: grants[{number}]")

    def _size(self) -> int:
        return os.fstat(self.descriptor).st_size

    def _read(self, view: memoryview, offset: int) -> None:
        try:
            with _files.failures(self.path):
                _files.read_into(self.descriptor, view, offset)
        except FileError as error:
            raise FileError(f"{self.path}: {error}") from None

    def blocks(self, extent: Extent) -> Iterator[tuple[bytes, memoryview]]:
        """Read an extent block by block: (leaf hash, ciphertext), which is valid until the thread takes another.

        What was hashed is what is handed out: a private copy, so that nobody can change the file in between.
        """
        if not hasattr(self._scratch, "buffer"):
            self._scratch.buffer = pages(min(BLOCK, max(e.length for e in self.statement.extents)))
        for at in range(0, extent.length, BLOCK):
            view = self._scratch.buffer[: min(BLOCK, extent.length - at)]
            self._read(view, self.payload_offset + extent.offset + at)
            yield merkle.leaf_hash(view), view

    def check_root(self, leaves: list[list[bytes]]) -> None:
        """PayloadTampered unless the extents' leaf hashes give the signed root."""
        if merkle.root([leaf for extent in leaves for leaf in extent]) != self.statement.root:
            raise PayloadTampered(f"{self.path}: payload does not match the signed root")

    def verify_payload(self, progress: Progress | None = None) -> None:
        """Hash the whole ciphertext on all cores; PayloadTampered where it is not what was signed."""

        def hash_extent(extent: Extent) -> list[bytes]:
            leaves = []
            for leaf, view in self.blocks(extent):
                leaves.append(leaf)
                if progress:
                    progress(len(view))
            return leaves

        self.check_root(in_threads(hash_extent, list(self.statement.extents)))

    def close(self) -> None:
        os.close(self.descriptor)

    def __enter__(self) -> "SealedFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RemoteHeader(SealedFile):
    """The header of a sealed file at a URL, read by range; its payload is not there."""

    def __init__(self, url: str) -> None:
        self.path = Path(remote.display(url))
        self._closing = contextlib.ExitStack()
        self._file = self._closing.enter_context(remote.opened(url))
        try:
            self._parse()
        except BaseException:
            self.close()
            raise

    def _size(self) -> int:
        return self._file.size

    def _read(self, view: memoryview, offset: int) -> None:
        view[:] = self._file.read(offset, len(view))

    def close(self) -> None:
        self._closing.close()


def open_header(path: str | os.PathLike[str]) -> SealedFile:
    """A sealed file for what its header says: of a URL nothing else is fetched."""
    return RemoteHeader(os.fspath(path)) if remote.is_url(path) else SealedFile(path)


def workers() -> int:
    """Threads worth starting: one for each processor this process may use."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, 16)


def in_threads(work: Callable[[Extent], T], extents: list[Extent]) -> list[T]:
    """``work`` over all extents on all cores, results in order; small payloads are not worth a thread."""
    if workers() == 1 or sum(e.length for e in extents) < BLOCK:
        return [work(extent) for extent in extents]
    with ThreadPoolExecutor(workers(), thread_name_prefix="modelvault") as pool:
        futures = [pool.submit(work, extent) for extent in extents]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
