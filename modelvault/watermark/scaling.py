"""Undo factors and sign flips of rows and columns by least squares against the original. No key is involved."""

import numpy as np
import numpy.typing as npt

from modelvault.watermark.carriers import Float

GAIN = 0.5  # factors are undone only where they take away half of the difference's energy
ROUNDS = 2
SIGN_ROUNDS = 4


def undo(original: Float, aligned: Float) -> tuple[Float, tuple[str, ...]]:
    """``aligned`` (a table in the original's order, zeros where unknown) rescaled, and what was undone in words."""
    words: tuple[str, ...] = ()
    plain, sizes = _cosine(original, aligned), _cosine(np.abs(original), np.abs(aligned))
    if abs(plain) < 0.7 * sizes - 0.1:
        aligned, words = _unflip(original, aligned), ("signs",)
    scaled = aligned
    for _ in range(ROUNDS):
        scaled = scaled * _factors(original, scaled, 1)[:, None]
        scaled = scaled * _factors(original, scaled, 0)[None, :]
    rows, columns = aligned.shape
    free = max(0.0, 1 - (rows + columns) / aligned.size)  # factors take away their own number of differences by chance
    if _energy(original, scaled) < GAIN * free * _energy(original, aligned):
        return scaled, (*words, "scale")
    return aligned, words


def _factors(original: Float, aligned: Float, axis: int) -> npt.NDArray[np.float32]:
    """For each line the factor that brings it closest to the original's; zeros of ``aligned`` say nothing."""
    spec = "ij,ij->i" if axis == 1 else "ij,ij->j"
    product, own = np.einsum(spec, original, aligned), np.einsum(spec, aligned, aligned)
    factors: npt.NDArray[np.float32] = np.divide(product, own, out=np.ones_like(own), where=own > 0)
    return factors


def _energy(original: Float, aligned: Float) -> float:
    rest = np.where(aligned != 0, aligned - original, 0)
    return float(np.vdot(rest, rest))


def _unflip(original: Float, aligned: Float) -> Float:
    """The signs of rows and columns that agree best: the leading pair of a sign matrix, by power iteration."""
    product = original * aligned
    energy = np.einsum("ij,ij->i", product, product)
    columns = np.sign(product[int(np.argmax(energy))])
    for _ in range(SIGN_ROUNDS):
        rows = np.where(product @ columns < 0, -1, 1).astype(np.float32)
        columns = np.where(rows @ product < 0, -1, 1).astype(np.float32)
    flipped: Float = aligned * rows[:, None] * columns[None, :]
    return flipped


def _cosine(a: Float, b: Float) -> float:
    norm = float(np.vdot(a, a)) * float(np.vdot(b, b))
    return float(np.vdot(a, b)) / norm**0.5 if norm > 0 else 0.0
