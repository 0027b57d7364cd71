"""Whose copy was this made from? A suspect against every recipient in the registry."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelvault.decryption import Decrypted
from modelvault.errors import ModelError
from modelvault.fingerprint.code import biases, code_key
from modelvault.fingerprint.collusion import Observed
from modelvault.fingerprint.layout import Layout
from modelvault.fingerprint.observing import Observer
from modelvault.fingerprint.ownfile import recipient_secret
from modelvault.fingerprint.registry import Issued, Record, Sealed
from modelvault.fingerprint.score import log10_p, score
from modelvault.fingerprint.slots import Patterns
from modelvault.keys import OwnerSecret
from modelvault.onnxfile import OpenModel, Weight
from modelvault.watermark.carriers import Carrier, find_carriers, model_digest
from modelvault.watermark.code import NO_PAYLOAD
from modelvault.watermark.detect import Evidence, TensorScore, difference, log10_bound
from modelvault.watermark.detect import score as score_mark
from modelvault.watermark.pattern import ModelKey
from modelvault.watermark.suspects import open_suspect
from modelvault.watermark.verifying import aligned

NAME_BELOW = -6.0
"""log10 of the probability, over all recipients together, below which a recipient is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """One recipient's part in a leak. ``log10_p``: bound, corrected for every recipient and file tried; ``how``: the
    hypothesis that fits best."""

    issued: Issued
    log10_p: float
    how: str

    @property
    def named(self) -> bool:
        return self.log10_p <= NAME_BELOW

    def to_dict(self) -> dict[str, Any]:
        i = self.issued
        return {
            "recipient": i.recipient,
            "label": i.label,
            "kind": i.kind,
            "statement": i.statement.hex(),
            "log10_p": round(self.log10_p, 2),
            "named": self.named,
            "how": self.how,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Everybody who had a copy, the likeliest first. ``slots``: how many the suspect still has, of how many."""

    original: bytes
    suspicions: tuple[Suspicion, ...]
    slots: tuple[int, int]

    @property
    def named(self) -> tuple[Suspicion, ...]:
        return tuple(s for s in self.suspicions if s.named)

    def to_dict(self) -> dict[str, Any]:
        return {
            "original": self.original.hex(),
            "recipients": len(self.suspicions),
            "named": [s.issued.recipient for s in self.named],
            "name_below_log10_p": NAME_BELOW,
            "slots_found": self.slots[0],
            "slots": self.slots[1],
            "ranking": [s.to_dict() for s in self.suspicions],
        }


@dataclass(frozen=True, slots=True)
class Base:
    """The model without fingerprints that copies were made from. ``original``: digest over the original's carriers."""

    original: bytes
    carriers: Sequence[Carrier]
    read: Callable[[Weight], bytes]

    @classmethod
    def of_model(cls, source: str | os.PathLike[str]) -> "Base":
        """The original itself; an owner's mark that the copies carry besides counts as noise."""
        model = OpenModel(source)
        carriers = find_carriers(model)
        return cls(model_digest(c.digest for c in carriers), carriers, model.read)

    @classmethod
    def of_sealed(cls, model: Decrypted, layout: Layout) -> "Base":
        """A sealed file opened with a grant for audits: its slots hold the mean of both variants."""
        places, carriers = {t.name: t for t in model.index.tensors}, []
        for number, t in enumerate(layout.tensors):
            place = places[t.name]
            weight = Weight(
                number=number, name=t.name, dtype=t.dtype, shape=t.shape, size=place.length, uses=frozenset()
            )
            carriers.append(Carrier(weight=weight, digest=t.digest, signs=b""))

        def read(weight: Weight) -> bytes:
            place = places[weight.name]
            return bytes(model.weights.view[place.offset : place.offset + place.length])

        return cls(layout.original, carriers, read)


def trace(
    suspect: str | os.PathLike[str],
    base: Base,
    secret: OwnerSecret,
    records: Sequence[Record],
    *,
    progress: Callable[[int], None] | None = None,
) -> Trace:
    """Score every recipient of ``records`` (the owner's registry) who got a copy of this original.

    Every recipient and every sealed file of that original counts as a trial. Raises ModelError where nothing of it was
    issued; FileError, FormatError.
    """
    digest = base.original
    layouts = {r.statement: r.layout for r in records if isinstance(r, Sealed) and r.layout.original == digest}
    mine = (i for i in records if isinstance(i, Issued) and i.original == digest)
    issued = list({(i.statement, i.recipient): i for i in mine}.values())
    if not issued:
        raise ModelError("the registry has no copy of this original")
    observers = {s: Observer(layout, Patterns(secret, layout)) for s, layout in layouts.items()}
    marks = {i.recipient: _OwnFile(secret, digest, i.recipient) for i in issued if i.kind == "file"}
    for carrier, found, values in aligned(base.read, base.carriers, open_suspect(suspect), progress):
        for statement, layout in layouts.items():
            for tensor in layout.tensors:
                if tensor.digest == carrier.digest:
                    observers[statement].add(tensor, found.values, values)
        if marks:
            w = carrier.weight
            off = difference(w.dtype, w.shape, found.values, values)
            for mark in marks.values():
                mark.scores.append(score_mark(mark.key, carrier.digest, off))
    observed = {s: o.observed() for s, o in observers.items()}
    suspicions = [_of_file(marks[i.recipient], i, len(issued)) for i in issued if i.kind == "file"]
    for statement, layout in layouts.items():
        theirs = [i for i in issued if i.kind == "slots" and i.statement == statement]
        suspicions += _of_slots(secret, layout, observed[statement], theirs, len(issued))
    every = np.concatenate([*(o.levels for o in observed.values()), np.empty(0)])
    suspicions.sort(key=lambda s: (s.log10_p, s.issued.label))
    found_slots = int(np.isfinite(every).sum())
    return Trace(original=digest, suspicions=tuple(suspicions), slots=(found_slots, len(every)))


class _OwnFile:
    """The full-length pattern of one recipient's own file, tensor by tensor."""

    def __init__(self, secret: OwnerSecret, original: bytes, recipient: str) -> None:
        self.key = ModelKey(recipient_secret(secret, recipient).secret, original)
        self.scores: list[TensorScore] = []


def _of_file(mark: _OwnFile, issued: Issued, trials: int) -> Suspicion:
    z = Evidence.of(mark.scores).z(mark.key.signs(NO_PAYLOAD))
    return Suspicion(issued=issued, log10_p=log10_bound(z, math.log2(trials)), how=f"own file, score {z:.1f}")


def _of_slots(
    secret: OwnerSecret, layout: Layout, observed: Observed, issued: Sequence[Issued], trials: int
) -> list[Suspicion]:
    key = code_key(secret.secret, layout.original)
    thresholds = biases(key, layout.slots, layout.coalition)
    scores = score(observed, thresholds, key, [i.recipient for i in issued])
    found = []
    for item, value, h in zip(issued, scores.values, scores.best, strict=True):
        how = h.name if h.size == 1 else f"{h.name}, about {h.size} copies"
        found.append(Suspicion(issued=item, log10_p=log10_p(float(value), trials), how=how))
    return found
