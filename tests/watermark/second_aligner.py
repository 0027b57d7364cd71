"""Alignment, written from docs/WATERMARK.md section 8 alone: it shares no code with the package, tests compare them.

Tensors are (of integers as stored, values) pairs in section 8's order; reading them from files is left out.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
Index = npt.NDArray[np.intp]
Tensor = tuple[bool, Float]
Cut = tuple[slice, slice]
Found = tuple[float, int, Float, Cut, bool]  # |fit|, suspect, values, place in the carrier's table, fused
WHOLE = slice(None)
LARGE = 2**26


def squeeze(values: Float) -> Float:
    return values.reshape([n for n in values.shape if n != 1])


def table(values: Float) -> Float:
    dims = [n for n in values.shape if n != 1]
    return values.reshape((dims[0], -1) if len(dims) > 1 else (1, -1))


def sketch(values: Float) -> Float:
    points = {1: 4096, 2: 64, 3: 16, 4: 8}.get(values.ndim, 4)
    for axis, n in enumerate(values.shape):
        values = values.take(np.arange(n)[:: max(1, n // points)][:points], axis)
    return values


def pearson(a: Float, b: Float) -> float:
    return cosine(a - a.mean(), b - b.mean())


def cosine(a: Float, b: Float) -> float:
    norm = float(np.vdot(a, a)) * float(np.vdot(b, b))
    return float(np.vdot(a, b)) / norm**0.5 if norm > 0 else 0.0


def even(values: Float) -> Float:
    sizes = np.abs(values)
    for axis in range(sizes.ndim):
        others = tuple(k for k in range(sizes.ndim) if k != axis)
        rms = np.sqrt(np.mean(np.square(sizes), axis=others, keepdims=True))
        sizes = sizes / np.where(rms > 0, rms, 1)
    return sizes


def fit(carrier: Float, suspect: Float) -> float:
    """0 where it does not count."""
    r = pearson(carrier, suspect)
    if abs(r) < 0.4 and (sizes := pearson(even(carrier), even(suspect))) >= 2 * max(0.12, abs(r)):
        r = sizes
    return r if abs(r) >= max(0.12, 6 / carrier.size**0.5) else 0.0


def readings(dims: tuple[int, ...], values: Float) -> Iterator[Float]:
    """A tensor of as many elements as a carrier, in every way that step 1 reads it."""
    if len(dims) > 4 or sorted(values.shape) != sorted(dims):
        orders = [tuple(range(values.ndim))]
    else:
        orders = list(itertools.permutations(range(values.ndim)))
    yield from (values.transpose(o) for o in orders if tuple(values.shape[k] for k in o) == dims)
    if values.shape != dims:
        yield from (v.reshape(dims) for v in ((values, values.T) if values.ndim > 1 else (values,)))


def windows(mine: Float, values: Float) -> Iterator[tuple[Float, Float, Cut, bool]]:
    for moved, axis in itertools.product((values, values.T), (0, 1)):
        own, other = mine.shape[axis], moved.shape[axis]
        short, long = sorted((own, other))
        if mine.shape[1 - axis] != moved.shape[1 - axis] or long % short or not 2 <= long // short <= 64:
            continue
        for at in range(0, long, short):
            piece = slice(at, at + short)
            cut = (piece, WHOLE) if axis == 0 else (WHOLE, piece)
            if other == long:
                yield mine, moved[cut], (WHOLE, WHOLE), True
            else:
                yield mine[cut], moved, cut, False


def own_order(carrier: Tensor, suspects: Sequence[Tensor]) -> list[Found]:
    values, mine = squeeze(carrier[1]), table(carrier[1])
    found: list[Found] = []
    for number, (_, other) in enumerate(suspects):
        for read in readings(values.shape, squeeze(other)) if other.size == values.size else ():
            if r := fit(sketch(values), sketch(read)):
                found.append((abs(r), number, read.reshape(mine.shape), (WHOLE, WHOLE), False))
    for number, (_, other) in enumerate(suspects if not found else ()):
        for part, read, place, fused in windows(mine, squeeze(other)) if squeeze(other).ndim == 2 else ():
            if r := fit(sketch(part), sketch(read)):
                found.append((abs(r), number, read, place, fused))
    taken: list[Found] = []
    for one in sorted(found, key=lambda f: -f[0]):
        if not any(all(WHOLE in (a, b) or a == b for a, b in zip(one[3], t[3], strict=True)) for t in taken):
            taken.append(one)
    stored = [t for t in taken if suspects[t[1]][0]]
    return stored if carrier[0] and stored else taken


def undone(original: Float, values: Float) -> Float:
    """Step 3."""
    if abs(cosine(original, values)) < 0.7 * cosine(np.abs(original), np.abs(values)) - 0.1:
        product = original * values
        columns = np.sign(product[np.argmax(np.square(product).sum(1))])
        for _ in range(4):
            rows = np.where(product @ columns < 0, -1, 1).astype(np.float32)
            columns = np.where(rows @ product < 0, -1, 1).astype(np.float32)
        values = rows[:, None] * values * columns
    scaled = values
    for axis in (1, 0, 1, 0):
        own = np.square(scaled).sum(axis, keepdims=True)
        factors = (original * scaled).sum(axis, keepdims=True) / np.where(own > 0, own, 1)
        scaled = scaled * np.where(own > 0, factors, 1)
    free = max(0.0, 1 - sum(values.shape) / values.size)
    if energy(original, scaled) < 0.5 * free * energy(original, values):
        values = scaled
    return values


def energy(original: Float, values: Float) -> float:
    return float(np.square(np.where(values != 0, values - original, 0)).sum())


def inverse(means: Float) -> Float:
    return np.where(means > 1e-15, 1 / np.where(means > 1e-15, means, 1), 1).astype(np.float32)


def balanced(values: Float) -> Float:
    """Sizes; less their mean they are A and B."""
    largest = np.abs(values).max(1, keepdims=True)
    squares = np.square(values / np.where(largest > 0, largest, 1))
    columns = np.ones(values.shape[1], np.float32)
    for _ in range(4):
        rows = inverse((squares * columns).mean(1))
        columns = inverse((rows[:, None] * squares).mean(0))
    sizes: Float = np.sqrt(squares * rows[:, None] * columns)
    return sizes


def mutual(products: Float, floor: float) -> Index:
    chosen = products.argmax(1)
    value = products.max(1)
    return np.where((value >= products.max(0)[chosen]) & (value >= floor), chosen, -1)


def columns_by_rows(a: Float, b: Float, rows: Index) -> Index:
    used = np.flatnonzero(rows >= 0)
    if len(used) < 8:
        return np.full(a.shape[1], -1)
    used = used[:: -(-len(used) // min(4096, max(64, 6 * 10**10 // (a.shape[1] * b.shape[1]))))]
    x, y = (t * np.sqrt(inverse(np.square(t).sum(0))) for t in (a[used], b[rows[used]]))
    return mutual(x.T @ y, min(0.8, max(0.15, 4 / len(used) ** 0.5)))


def refined(a: Float, b: Float, rows: Index) -> tuple[float, Index, Index] | None:
    in_order = len(rows) == len(b) and bool((rows == np.arange(len(rows))).all())
    columns = columns_by_rows(a, b, rows)
    for _ in range(0 if in_order else 2 if len(a) * len(b) <= LARGE else 1):
        if (columns < 0).mean() > 0.9:
            return None
        rows = columns_by_rows(a.T, b.T, columns)
        if a.shape[1] * b.shape[1] <= LARGE:
            columns = columns_by_rows(a, b, rows)
    i, j = rows >= 0, columns >= 0
    if i.mean() < 0.2 or j.mean() < 0.2:
        return None
    return cosine(a[np.ix_(i, j)], b[np.ix_(rows[i], columns[j])]), rows, columns


def by_features(a: Float, b: Float) -> Index:
    x, y = (np.sort(t, 1)[:, np.arange(256) * (t.shape[1] - 1) // 255] for t in (a, b))
    mean, spread = x.mean(0), x.std(0) + np.float32(1e-6)
    x, y = (x - mean) / spread, (y - mean) / spread
    return mutual(x @ y.T - np.square(x).sum(1)[:, None] / 2 - np.square(y).sum(1) / 2, -np.inf)


def begun(a: Float, b: Float) -> tuple[float, Index, Index] | None:
    """Of two tables of sizes, the best order of rows and columns."""
    best: tuple[float, Index, Index] | None = None
    shorter = 0 if a.shape[0] <= a.shape[1] else 1
    for axis, by_size in ((0, False), (1, False), (shorter, True)):
        x, y = (t if axis == 0 else t.T for t in (a, b))
        if not by_size and (len(x) != len(y) or x.shape[1] * y.shape[1] > LARGE):
            continue
        found = refined(x - x.mean(), y - y.mean(), by_features(x, y) if by_size else np.arange(len(x)))
        if found and (best is None or found[0] > best[0]):
            best = found if axis == 0 else (found[0], found[2], found[1])
        if best and best[0] >= 0.5:
            break
    return best


def align(carriers: Sequence[Tensor], suspects: Sequence[Tensor]) -> list[Float | None]:
    """For each carrier its table as the suspect has it, 0 where it has nothing; None where it has none of it."""
    result: list[Float | None] = [None] * len(carriers)
    spent: set[int] = set()
    for number, carrier in enumerate(carriers):
        mine = table(carrier[1])
        taken = own_order(carrier, suspects)
        whole = np.zeros_like(mine)
        for _, suspect, read, place, fused in taken:
            whole[place] = undone(mine[place], read)
            spent |= set() if fused else {suspect}
        if taken:
            result[number] = whole
    pairs = 0
    for number in [n for n, done in enumerate(result) if done is None]:
        mine = table(carriers[number][1])
        sizes, best = balanced(mine), None
        for suspect, (_, values) in enumerate(suspects):
            near = squeeze(values).ndim >= 2 and 0.1 <= values.size / mine.size <= 16 and suspect not in spent
            for other in (table(values), table(values).T) if near else ():
                (m, n), (k, p) = mine.shape, other.shape
                if pairs < 1024 and (m == k or n == p or (k <= m and p <= n)):
                    pairs += 1
                    found = begun(sizes, balanced(other))
                    if found and found[0] >= 0.35 and (best is None or found[0] > best[0][0]):
                        best = found, other, suspect
            if best and best[0][0] > 0.9:
                break
        if best:
            (_, rows, columns), other, suspect = best
            spent.add(suspect)
            moved = other[np.ix_(np.maximum(rows, 0), np.maximum(columns, 0))]
            result[number] = undone(mine, moved * (rows >= 0)[:, None] * (columns >= 0))
    return result
