"""How much a difference says about the mark: its expected pattern value (docs/WATERMARK.md section 7). No key is in it.

A difference is a mark and what was done since. What was done is taken for a mixture of normal distributions about
zero, whose shares are fitted to the differences themselves (EM, the nonparametric maximum likelihood of Robbins and
Kiefer and Wolfowitz): so weights that were left alone count by what they are, beside others drowned in noise.
"""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from modelvault.watermark.carriers import Float
from modelvault.watermark.pattern import PIECE, SQRT2

FLOAT_MARK = 0.003  # a mark's rms over the scale, as it is looked for
CLIP = 4 * 1.4826  # medians of the absolute difference
SAMPLE = 65_536
LEAST_LINE = 16
ROUNDS = 200
SMALLEST, LARGEST = 2.0**-20, 64.0
OCTAVE_BITS = 20  # a float32's upper 12 bits tell its sign, and its size to an eighth of an octave
CLASSES = 1 + (int(np.float32(LARGEST).view(np.int32)) >> OCTAVE_BITS)
STEP_RATE = 1 / 256  # a quantised weight steps up, and down, with this probability
STEP_REACH = 128

Table = npt.NDArray[np.float64]


def weigh(table: Float) -> None:
    """Float differences over the scale -> E[pattern value | difference], in place.

    Noise that is the same everywhere drowns the mark in small rows and columns, and leaves it in large ones: every
    element is first seen relative to its row's and its column's rms.
    """
    rows, columns, whole = _spread(table)
    if whole == 0:
        return
    weights = _normal_weights(_size_counts(table, rows, columns), min(1.0, max(SMALLEST, FLOAT_MARK / whole)))
    for part in _row_parts(table):
        piece = table[part]
        deviation = np.maximum(rows[part, None] * columns[None, :], np.float32(FLOAT_MARK))
        relative = piece / deviation
        np.clip(relative, -LARGEST, LARGEST, out=relative)
        piece[...] = weights[_size_class(relative)].reshape(piece.shape)
        piece *= relative
        deviation /= np.float32(FLOAT_MARK)
        piece /= deviation


def _size_counts(table: Float, rows: Float, columns: Float) -> npt.NDArray[np.int64]:
    """How many of SAMPLE elements evenly apart are of each size relative to their row and column; zeros not counted."""
    places = np.arange(0, table.size, max(1, table.size // SAMPLE))
    row, column = np.divmod(places, table.shape[1])
    relative = table.reshape(-1)[places] / np.maximum(rows[row] * columns[column], np.float32(FLOAT_MARK))
    classes = _size_class(np.clip(relative, -LARGEST, LARGEST)[relative != 0])
    return np.bincount(classes, minlength=CLASSES)


def _row_parts(table: Float) -> Iterator[slice]:
    """Slices of rows that fit a processor's cache."""
    step = max(1, PIECE // table.shape[1])
    return (slice(at, at + step) for at in range(0, len(table), step))


def weigh_steps(values: Float) -> None:
    """Differences of quantised weights in steps -> E[pattern value | difference], in place."""
    expected = _step_expectations(np.bincount(_steps(values), minlength=STEP_REACH + 1))
    for at in range(0, len(values), PIECE):
        piece = values[at : at + PIECE]
        np.copysign(expected[_steps(piece)], piece, out=piece)


def _steps(values: Float) -> npt.NDArray[np.intp]:
    return np.minimum(np.abs(np.rint(values)), STEP_REACH).astype(np.intp)


def _size_class(values: Float) -> npt.NDArray[np.int32]:
    """The upper 11 bits of each size: sign dropped, exponent and three bits of fraction."""
    return (values.reshape(-1).view(np.int32) & np.int32(0x7FFFFFFF)) >> np.int32(OCTAVE_BITS)


def _normal_weights(counts: npt.NDArray[np.int64], least: float) -> Float:
    """For each size class E[1 / variance | size], over normals of standard deviations from ``least`` to LARGEST."""
    sizes = (np.arange(len(counts), dtype=np.int32) << np.int32(OCTAVE_BITS)).view(np.float32) * np.float64(1.0625)
    variances = least**2 * 2.0 ** np.arange(1 + math.ceil(2 * math.log2(LARGEST / least)))
    like = np.exp(-np.square(sizes)[:, None] / (2 * variances)) / np.sqrt(variances)
    seen = np.flatnonzero(counts)
    joint = like * _shares(like[seen], counts[seen].astype(np.float64))
    total = joint.sum(axis=1)
    weights = np.full(len(counts), 1 / variances[-1])
    np.divide(joint @ (1 / variances), total, out=weights, where=total > 0)
    return weights.astype(np.float32)


def _step_expectations(counts: npt.NDArray[np.int64]) -> Float:
    """For a difference of 0 to STEP_REACH steps the expected pattern value: its extreme where a step is sure."""
    places = np.arange(-STEP_REACH - 1, STEP_REACH + 2)
    deviations = 0.5 * 2.0 ** (np.arange(16) / 2)
    noise = np.vstack([places == 0, np.exp(-np.square(places)[None, :] / (2 * deviations[:, None] ** 2))])
    noise /= noise.sum(axis=1, keepdims=True)
    here, below, above = (noise[:, STEP_REACH + 1 + k : 2 * STEP_REACH + 2 + k].T for k in (0, -1, 1))
    like = (1 - 2 * STEP_RATE) * here + STEP_RATE * (below + above)
    shares = _shares(like, counts[: STEP_REACH + 1].astype(np.float64))
    signal = (STEP_RATE * (below - above)) @ shares
    total = like @ shares
    expected = np.divide(signal, total, out=np.zeros_like(total), where=total > 0)
    values: Float = (4 / SQRT2 * expected).astype(np.float32)
    return values


def _shares(like: Table, counts: Table) -> Table:
    """EM: the components' shares under which sizes of these counts are likeliest; ``like``: sizes x components."""
    shares = np.full(like.shape[1], 1 / like.shape[1])
    for _ in range(ROUNDS):
        joint = like * shares
        total = joint.sum(axis=1, keepdims=True)
        shares = counts @ np.divide(joint, total, out=np.zeros_like(joint), where=total > 0)
        shares /= shares.sum() or 1.0
    return shares


def _spread(table: Float) -> tuple[Float, Float, float]:
    """Rows' rms, columns' rms over that of the whole, and that of the whole; of elements that are not zero, clipped.

    Lines with too few elements to tell count as the whole.
    """
    limit, sums, counts = CLIP * median(table.reshape(-1)), [], []
    across, used = np.zeros(table.shape[1]), np.zeros(table.shape[1], np.int64)
    for part in _row_parts(table):
        piece = np.clip(table[part], -limit, limit)
        full = (piece != 0).all()
        counts.append(np.full(len(piece), piece.shape[1]) if full else np.count_nonzero(piece, axis=1))
        used += len(piece) if full else np.count_nonzero(piece, axis=0)
        sums.append(np.einsum("ij,ij->i", piece, piece))
        across += np.einsum("ij,ij->j", piece, piece)
    down, down_used = np.concatenate(sums).astype(np.float64), np.concatenate(counts)
    whole = math.sqrt(down.sum() / max(int(down_used.sum()), 1))
    rows, columns = _line_rms(down, down_used, whole), _line_rms(across, used, whole)
    return rows, columns / np.float32(whole or 1), whole


def _line_rms(sums: Table, counts: npt.NDArray[np.int64], whole: float) -> Float:
    mean = sums / np.maximum(counts, 1)
    return np.sqrt(np.where(counts >= LEAST_LINE, mean, whole**2)).astype(np.float32)


def median(values: Float) -> float:
    """The median size of those of 65536 evenly spaced elements that are not zero."""
    sample = np.abs(values[:: max(1, len(values) // SAMPLE)])
    sample = sample[sample > 0]
    if not len(sample):
        sample = np.abs(values[values != 0])
    return float(np.median(sample)) if len(sample) else 0.0
