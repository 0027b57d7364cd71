"""Decrypt a sealed payload into private memory: one pass that hashes and decrypts, all of it undone on any doubt."""

from collections.abc import Callable
from dataclasses import dataclass, field

from modelvault._memory import SecureBuffer
from modelvault._primitives import InvalidTag
from modelvault.errors import FormatError, PayloadTampered
from modelvault.filekey import FileKey
from modelvault.graphcheck import check_sealed_graph
from modelvault.index import Index
from modelvault.manifest import Extent
from modelvault.sealedfile import Progress, SealedFile, in_threads
from modelvault.slotfilling import SlotFiller
from modelvault.variants import MasterKey


@dataclass(slots=True, repr=False)
class Decrypted:
    """A model's plain parts, whose ciphertext was the signed one. ``wipe`` when done."""

    graph: SecureBuffer
    weights: SecureBuffer
    index: Index
    assets: dict[str, SecureBuffer]

    @property
    def locked(self) -> bool:
        """Whether the system keeps every part out of swap."""
        return all(b.locked for b in (self.weights, *self.assets.values()))

    def wipe(self) -> None:
        for buffer in (self.graph, self.weights, *self.assets.values()):
            buffer.wipe()


@dataclass(slots=True)
class _Room:
    """Where each extent's plain bytes go; weights extents share one buffer, in which each begins at its ``start``."""

    buffers: list[SecureBuffer] = field(default_factory=list)
    places: dict[int, memoryview] = field(default_factory=dict)
    starts: dict[int, int] = field(default_factory=dict)


def decrypt(
    sealed: SealedFile,
    key: FileKey,
    progress: Progress | None = None,
    check_buffers: Callable[[bool], None] | None = None,
    tensors: bool = False,
) -> Decrypted:
    """Read the payload once, hash and decrypt it on all cores, and hand it out only if its root is the signed one.

    ``check_buffers`` is told, before a byte is decrypted, whether all buffers are locked. ``tensors`` reads the
    index's table of tensors too. Slots of variants get those that ``key`` opens; with a master key, their mean. Raises
    PayloadTampered, FormatError, FileError; whatever was decrypted by then is wiped.
    """
    room = _make_room(sealed.statement.extents)
    try:
        if check_buffers:
            check_buffers(all(b.locked for b in room.buffers))
        slots = _slot_filler(sealed, key, room)
        _fill(sealed, key, room, slots, progress)
        return _open_index(sealed, room, slots, tensors=tensors or isinstance(key.variants, MasterKey))
    except BaseException:
        for buffer in room.buffers:
            buffer.wipe()
        raise


def _make_room(extents: tuple[Extent, ...]) -> _Room:
    room, at = _Room(), 0
    weights = SecureBuffer(sum(e.plain for e in extents if e.kind == "weights"))
    room.buffers.append(weights)
    for number, extent in enumerate(extents):
        if extent.kind == "weights":
            room.places[number] = weights.view[at : at + extent.plain]
            room.starts[number] = at
            at += extent.plain
        else:
            room.buffers.append(SecureBuffer(extent.plain))
            room.places[number] = room.buffers[-1].view[:]
    return room


def _slot_filler(sealed: SealedFile, key: FileKey, room: _Room) -> SlotFiller | None:
    variants, source = sealed.statement.variants, f"{sealed.path}: variants"
    if variants is None:
        return None
    if key.variants is None:
        raise FormatError(f"{source}: expected keys of them beside the file key")
    weights, _, store, *_ = room.buffers
    return SlotFiller(variants, key.variants, weights.view, store.view, source)


def _fill(sealed: SealedFile, key: FileKey, room: _Room, slots: SlotFiller | None, progress: Progress | None) -> None:
    extents = sealed.statement.extents
    numbers = {extent.offset: number for number, extent in enumerate(extents)}
    order = sorted(extents, key=lambda e: e.kind == "weights")  # last: then slots are filled beside other work

    def work(extent: Extent) -> list[bytes]:
        number = numbers[extent.offset]
        leaves = _decrypt_extent(sealed, key, extent, number, room.places[number], progress)
        if slots and extent.kind == "variants":
            slots.store_is_plain()
        elif slots and extent.kind == "weights":
            slots.region_is_plain(room.starts[number], room.starts[number] + extent.plain)
        return leaves

    try:
        found = dict(zip((e.offset for e in order), in_threads(work, order), strict=True))
        sealed.check_root([found[extent.offset] for extent in extents])
    finally:
        for place in room.places.values():
            place.release()


def _decrypt_extent(
    sealed: SealedFile,
    key: FileKey,
    extent: Extent,
    number: int,
    out: memoryview,
    progress: Progress | None,
) -> list[bytes]:
    """Decrypt one extent into ``out``; returns the leaf hashes of the very bytes that were decrypted."""
    decryptor, done, leaves = key.decryptor(sealed.statement.nonce, number), 0, []
    try:
        for leaf, ciphertext in sealed.blocks(extent):
            leaves.append(leaf)
            with out[done:] as rest:
                done += decryptor.update_into(ciphertext, rest)
            if progress:
                progress(len(ciphertext))
        last = decryptor.finalize()
    except InvalidTag:
        raise PayloadTampered(f"{sealed.path}: extents[{number}]: does not decrypt") from None
    if done + len(last) != len(out):
        raise PayloadTampered(f"{sealed.path}: extents[{number}]: expected {len(out)} bytes, got {done + len(last)}")
    out[done:] = last
    return leaves


def _open_index(sealed: SealedFile, room: _Room, slots: SlotFiller | None, *, tensors: bool) -> Decrypted:
    weights, graph, *rest = room.buffers
    source = str(sealed.path)
    index = _read_index(rest.pop(), f"{source}: index", tensors=tensors)
    store = rest.pop(0) if slots else None
    if [a.size for a in index.assets] != [b.size for b in rest]:
        raise FormatError(f"{source}: index.assets: not the assets of the statement")
    if index.region > weights.size:
        raise FormatError(f"{source}: index.region: expected at most {weights.size}, got {index.region}")
    check_sealed_graph(graph.mapped, index.region, source)
    if slots and store:
        slots.finish(index.tensors)
        store.wipe()
    named = {entry.path: buffer for entry, buffer in zip(index.assets, rest, strict=True)}
    return Decrypted(graph=graph, weights=weights, index=index, assets=named)


def _read_index(buffer: SecureBuffer, source: str, *, tensors: bool) -> Index:
    end = buffer.mapped.find(b"\n")
    if end < 0 or buffer.mapped[-1:] != b"\n":
        raise FormatError(f"{source}: expected two lines")
    table = buffer.mapped[end + 1 : -1] if tensors else None
    index = Index.from_bytes(buffer.mapped[:end], source, table=table)
    buffer.wipe()
    return index
