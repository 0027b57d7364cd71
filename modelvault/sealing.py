"""Seal an ONNX model: one streaming pass over the source, then the signed header in front of it."""

import hashlib
import os
import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from modelvault import _files, envelope, merkle, onnxfile
from modelvault._primitives import CHUNK, sealed_length
from modelvault.container import Header, payload_offset
from modelvault.envelope import Signer
from modelvault.envelopes import InputEnvelope
from modelvault.errors import FileError, ModelError
from modelvault.filekey import FileKey, Recipient
from modelvault.index import FileEntry, Index, TensorPlace
from modelvault.manifest import BLOCK, NONCE, Extent, ModelStatement, check_name, check_version
from modelvault.oms import SignedModel
from modelvault.policy import Terms
from modelvault.sealedfile import Progress, workers

if TYPE_CHECKING:
    from modelvault.watermark.embedding import Plan

WEIGHTS_EXTENT = 511 * CHUNK  # its ciphertext is just below two Merkle blocks; many extents keep all cores busy
PIECE = 2**20
SLACK = 256  # an ECDSA signature may come out a few bytes longer than in the rehearsal
PLACEHOLDER = bytes(32)
MAX_ASSET = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class SealReport:
    """What was sealed: sizes in bytes, the statement and its SHA-256 (None in a dry run)."""

    output: Path
    statement: ModelStatement
    statement_digest: bytes | None
    source_bytes: int
    tensors: int
    region: int
    assets: tuple[str, ...]
    recipients: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "output": str(self.output),
            "name": self.statement.name,
            "version": self.statement.version,
            "statement": self.statement_digest.hex() if self.statement_digest else None,
            "source_bytes": self.source_bytes,
            "payload_bytes": self.statement.payload_size,
            "tensors": self.tensors,
            "weights_bytes": self.region,
            "assets": list(self.assets),
        }


@dataclass(frozen=True, slots=True)
class _Asset:
    path: str
    folder: Path
    size: int


def seal(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    recipients: Sequence[Recipient],
    signers: Sequence[Signer],
    own: Recipient,
    name: str | None = None,
    version: str = "1",
    assets: Iterable[str | os.PathLike[str]] = (),
    policy: Terms | None = None,
    guard: InputEnvelope | None = None,
    signed: SignedModel | None = None,
    public_io: bool = False,
    watermark: "Plan | None" = None,
    keep_docs: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> SealReport:
    """Encrypt and sign the model ``source`` (an ONNX file, or a folder that holds one) into ``output``.

    ``own`` is the publisher's own recipient key: with it the publisher can issue more grants later. ``guard`` is the
    input envelope that sessions will check. ``watermark`` (watermark.embedding.make_plan) marks the weights on their
    way: the unmarked ones are never written. ``signed`` is a verified OpenSSF signature of the folder ``source``: what
    is sealed must be just its files, and the statement records it. ``progress`` is called with counts of plain bytes
    sealed. After any failure ``output`` is as it was. A dry run checks everything, signs a rehearsal, and writes
    nothing.

    Raises ModelError, FileError, FormatError, KeyUnavailable; PayloadTampered for a file that is not as in ``signed``.
    """
    model_path, asset_list = _sources(Path(source), [Path(a) for a in assets])
    marker = watermark.marker() if watermark else None
    model = onnxfile.split(model_path, keep_docs=keep_docs, edit=marker.edit if marker else None)
    asset_list = [a for a in asset_list if a.path not in {s.path for s in model.sources}]
    key, nonce = FileKey.generate(), secrets.token_bytes(NONCE)
    plan = _Plan(model, asset_list, guard, signed)
    statement = ModelStatement(
        name=check_name(name or model_path.stem, "name"),
        version=check_version(version, "version"),
        created=datetime.now(UTC).replace(microsecond=0),
        nonce=nonce,
        root=PLACEHOLDER,
        extents=plan.extents,
        key_commitment=key.commitment(nonce),
        policy=policy or Terms(),
        publishers=tuple(s.public.fingerprint for s in signers),
        io=plan.public_io() if public_io else None,
        watermark=watermark.commitment if watermark else None,
        plain_signature=signed.record if signed else None,
    )
    everyone = list({r.fingerprint: r for r in [own, *recipients]}.values())
    # A rehearsal with a placeholder root: keys that do not work fail now, and the header's length is known.
    rehearsal = _header(statement, signers, everyone, key)[0]
    report = SealReport(
        output=Path(output),
        statement=statement,
        statement_digest=None,
        source_bytes=sum(s.size for s in model.sources),
        tensors=len(model.tensors),
        region=model.region,
        assets=tuple(a.path for a in asset_list),
        recipients=tuple(r.fingerprint for r in everyone),
    )
    if dry_run:
        return report
    offset = payload_offset(rehearsal.length + SLACK)
    with _files.atomic_write(output) as file:
        file.seek(offset)
        root = _write_payload(file, plan, key, nonce, progress)
        if marker:
            marker.check_complete(model_path)
        statement = replace(statement, root=root)
        header, digest = _header(statement, signers, everyone, key)
        file.seek(0)
        file.write(header.to_bytes(offset))
    return replace(report, statement=statement, statement_digest=digest)


def _header(
    statement: ModelStatement, signers: Sequence[Signer], recipients: Sequence[Recipient], key: FileKey
) -> tuple[Header, bytes]:
    payload = statement.to_bytes()
    digest = hashlib.sha256(payload).digest()
    grants = [key.grant(r, statement.name, digest).to_bytes() for r in recipients]
    signed = tuple(envelope.sign(grant, signers[:1]).to_bytes() for grant in grants)
    return Header(envelope=envelope.sign(payload, signers).to_bytes(), grants=signed), digest


def _sources(source: Path, extra: list[Path]) -> tuple[Path, list[_Asset]]:
    """The model file, and every other file that travels with it."""
    assets = [_asset(path.parent, path.name) for path in extra]
    model = source
    if source.is_dir():
        model = _model_in(source)
        assets += [_asset(source, path) for path in _walk(source) if path != model.name]
    if len({a.path for a in assets}) != len(assets):
        raise FileError(f"{source}: two assets of one name")
    return model, assets


def find_model(source: str | os.PathLike[str]) -> Path:
    """The model file itself, or the one that a folder holds."""
    source = Path(source)
    return _model_in(source) if source.is_dir() else source


def _model_in(folder: Path) -> Path:
    found = sorted(folder.glob("*.onnx"))
    if folder / "model.onnx" in found:
        return folder / "model.onnx"
    if len(found) != 1:
        raise ModelError(f"{folder}: expected one .onnx file or a model.onnx, got {len(found)} .onnx files")
    return found[0]


def _walk(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise FileError(f"{path}: is a symbolic link")
        if not path.is_dir():
            yield path.relative_to(folder).as_posix()


def _asset(folder: Path, path: str) -> _Asset:
    descriptor = _files.open_inside(folder, path)
    size = os.fstat(descriptor).st_size
    os.close(descriptor)
    if size > MAX_ASSET:
        raise FileError(f"{folder / path}: larger than the limit of {MAX_ASSET} bytes for an asset")
    return _Asset(path, folder, size)


class _Plan:
    """The payload's extents, known before a byte is encrypted: the index holds only values of fixed length."""

    def __init__(
        self,
        model: onnxfile.SplitModel,
        assets: list[_Asset],
        guard: InputEnvelope | None = None,
        signed: SignedModel | None = None,
    ) -> None:
        self.model = model
        self.signed = signed
        self.assets = assets
        self.guard = guard
        # Whole chunks: the loader then decrypts every byte in place.
        self.region = -(-model.region // CHUNK) * CHUNK
        sources = {s.path: PLACEHOLDER for s in model.sources}
        index = len(self.index(sources, [PLACEHOLDER] * len(assets)))
        weights = [min(WEIGHTS_EXTENT, self.region - at) for at in range(0, self.region, WEIGHTS_EXTENT)]
        sizes = [("graph", len(model.graph)), *(("weights", n) for n in weights)]
        sizes += [*(("asset", a.size) for a in assets), ("index", index)]
        self.extents = _back_to_back(sizes)

    def index(self, sources: dict[str, bytes], assets: list[bytes]) -> bytes:
        model, weights = self.model, Counter[str]()
        for tensor in model.tensors:
            weights[tensor.dtype] += tensor.length
        return Index(
            region=model.region,
            weights=dict(weights),
            guard=self.guard,
            sources=tuple(FileEntry(path=s.path, size=s.size, sha256=sources[s.path]) for s in model.sources),
            tensors=tuple(
                TensorPlace(name=t.name, dtype=t.dtype, shape=t.shape, offset=t.offset, length=t.length)
                for t in model.tensors
            ),
            assets=tuple(
                FileEntry(path=a.path, size=a.size, sha256=digest)
                for a, digest in zip(self.assets, assets, strict=True)
            ),
        ).to_bytes()

    def public_io(self) -> dict[str, Any]:
        def sides(entries: Sequence[onnxfile.IOEntry]) -> list[dict[str, Any]]:
            return [{"dtype": e.dtype, "name": e.name, "shape": list(e.shape)} for e in entries]

        return {"inputs": sides(self.model.inputs), "outputs": sides(self.model.outputs)}

    def contents(self) -> Iterator[Iterable[memoryview | bytes]]:
        """The plain bytes of each extent, in order; each is to be read to its end before the next."""
        yield [self.model.graph]
        weights = _Cutter(self._padded())
        for extent in self.extents:
            if extent.kind == "weights":
                yield weights.take(extent.plain)
        weights.run_out()  # so that every source file is hashed to its end
        digests: list[bytes] = []
        for asset in self.assets:
            yield _read_asset(asset, digests)
        sources = self.model.source_digests()
        if self.signed is not None:  # against the very bytes that were encrypted
            self.signed.check(sources | dict(zip((a.path for a in self.assets), digests, strict=True)))
        yield [self.index(sources, digests)]

    def _padded(self) -> Iterator[memoryview]:
        yield from self.model.stream(PIECE)
        if self.region > self.model.region:
            yield memoryview(bytes(self.region - self.model.region))


def _back_to_back(sizes: list[tuple[str, int]]) -> tuple[Extent, ...]:
    extents, offset = [], 0
    for kind, size in sizes:
        extents.append(Extent(kind=kind, offset=offset, length=sealed_length(size)))
        offset += extents[-1].length
    return tuple(extents)


_END = memoryview(b"")


class _Cutter:
    """Cuts a stream of pieces at given sizes; pieces may straddle a cut."""

    def __init__(self, stream: Iterator[memoryview]) -> None:
        self._stream = stream
        self._rest = _END

    def take(self, size: int) -> Iterator[memoryview]:
        while size > 0:
            piece = self._rest or next(self._stream, _END)
            if not piece:
                return
            self._rest = piece[size:]
            yield piece[:size]
            size -= min(size, len(piece))

    def run_out(self) -> None:
        for _ in self._stream:
            pass


def _read_asset(asset: _Asset, digests: list[bytes]) -> Iterator[memoryview]:
    descriptor = _files.open_inside(asset.folder, asset.path)
    try:
        buffer, digest = memoryview(bytearray(PIECE)), hashlib.sha256()
        for at in range(0, asset.size, PIECE):
            view = buffer[: min(PIECE, asset.size - at)]
            _files.read_into(descriptor, view, at)
            digest.update(view)
            yield view
        digests.append(digest.digest())
    finally:
        os.close(descriptor)


class _BlockWriter:
    """Cuts ciphertext into 4 MiB blocks; other threads write and hash them while the next is encrypted."""

    def __init__(self, file: BinaryIO, hashing: Executor, writing: Executor) -> None:
        self._file = file
        self._hashing = hashing
        self._writing = writing  # one thread: blocks reach the file in their order
        self._block = bytearray()
        self._leaves: list[Future[bytes]] = []
        self._written: deque[Future[int]] = deque()

    def write(self, data: bytes) -> None:
        self._block += data
        while len(self._block) >= BLOCK:
            self._emit(bytes(memoryview(self._block)[:BLOCK]))
            del self._block[:BLOCK]

    def end_extent(self) -> None:
        """Each extent begins a new block."""
        if self._block:
            self._emit(bytes(self._block))
            self._block.clear()

    def _emit(self, block: bytes) -> None:
        self._leaves.append(self._hashing.submit(merkle.leaf_hash, block))
        self._written.append(self._writing.submit(self._file.write, block))
        if len(self._written) > 2 * workers():  # bounds the blocks in memory, and meets a full disk early
            self._written.popleft().result()
            self._leaves[-2 * workers()].result()

    def root(self) -> bytes:
        """The Merkle root, once every block is written."""
        for write in self._written:
            write.result()
        return merkle.root([leaf.result() for leaf in self._leaves])


def _write_payload(
    file: BinaryIO, plan: _Plan, key: FileKey, nonce: bytes, progress: Callable[[int], None] | None
) -> bytes:
    """Encrypt every extent in order; returns the payload's Merkle root."""
    with ThreadPoolExecutor(workers()) as hashing, ThreadPoolExecutor(1) as writing:
        writer = _BlockWriter(file, hashing, writing)
        for number, (extent, content) in enumerate(zip(plan.extents, plan.contents(), strict=True)):
            encryptor, count = key.encryptor(nonce, number), 0
            for piece in content:
                writer.write(encryptor.update(piece))
                count += len(piece)
                if progress:
                    progress(len(piece))
            if count != extent.plain:
                raise ModelError(f"{extent.kind}: source changed while it was being sealed")
            writer.write(encryptor.finalize())
            writer.end_extent()
        return writer.root()
