"""The payload of a sealed file: plan its extents, encrypt them in one pass, hash the ciphertext into a Merkle root."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, BinaryIO

from modelvault import merkle, onnxfile
from modelvault._primitives import CHUNK, sealed_length
from modelvault.envelopes import InputEnvelope
from modelvault.errors import ModelError
from modelvault.filekey import FileKey
from modelvault.index import FileEntry, Index
from modelvault.manifest import BLOCK, Extent
from modelvault.oms import SignedModel
from modelvault.sealedfile import workers
from modelvault.sources import PIECE, Asset, read_asset

if TYPE_CHECKING:
    from modelvault.fingerprint.embed import SlotSealer

WEIGHTS_EXTENT = 511 * CHUNK  # its ciphertext is just below two Merkle blocks; many extents keep all cores busy
PLACEHOLDER = bytes(32)


class PayloadPlan:
    """The payload's extents, known before a byte is encrypted: the index holds only values of fixed length."""

    def __init__(
        self,
        model: onnxfile.SplitModel,
        assets: list[Asset],
        guard: InputEnvelope | None = None,
        signed: SignedModel | None = None,
        slots: "SlotSealer | None" = None,
    ) -> None:
        self.model = model
        self._slots = slots
        self.signed = signed
        self.assets = assets
        self.guard = guard
        # Whole chunks: the loader then decrypts every byte in place.
        self.region = -(-model.region // CHUNK) * CHUNK
        sources = {s.path: PLACEHOLDER for s in model.sources}
        index = len(self.index(sources, [PLACEHOLDER] * len(assets)))
        weights = [min(WEIGHTS_EXTENT, self.region - at) for at in range(0, self.region, WEIGHTS_EXTENT)]
        sizes = [("graph", len(model.graph)), *(("weights", n) for n in weights)]
        sizes += [("variants", slots.layout.store)] if slots else []
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
            tensors=model.tensors,
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
        if self._slots:
            yield [self._slots.store(self.model.tensors, self.model.path)]
        digests: list[bytes] = []
        for asset in self.assets:
            yield read_asset(asset, digests)
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


def write_payload(
    file: BinaryIO, plan: PayloadPlan, key: FileKey, nonce: bytes, progress: Callable[[int], None] | None
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
