"""What a mark does to a model: the same inputs through both, in onnxruntime, and how far the outputs are apart."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelvault import _files
from modelvault._codec import NUMBER
from modelvault.errors import FormatError, ModelError, ModelVaultError

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]

RUNS = 8
SEED = 20_240_601
SIZES = (64, 48, 32, 96, 128, 224, 512)  # tried in turn for dimensions that the model leaves open
MAX_INPUTS = 2**30
TIE = 0.05  # of a row's largest size: two largest values closer than this are a tie, which any rounding may turn
PROBES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Outputs before against after, each over all runs; of several outputs the worst.

    ``agreement`` of arg-max along the last axis, of all rows, of which ``flipped`` changed, and (``decided``) of those
    that were no tie before, of which ``turned`` changed; ``largest`` and ``mean`` difference over the output's rms.
    """

    inputs: str
    runs: int
    cosine: float
    agreement: float
    flipped: int
    decided: float
    turned: int
    largest: float
    mean: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "inputs": self.inputs,
            "runs": self.runs,
            "cosine": round(self.cosine, 7),
            "argmax_agreement": round(self.agreement, 5),
            "argmax_agreement_without_ties": round(self.decided, 5),
            "max_difference": round(self.largest, 6),
            "mean_difference": round(self.mean, 6),
        }


class Bench:
    """Runs one model and variants of it on the same inputs."""

    def __init__(self, model: Path | bytes, feeds: Sequence[Feed] | None, described: str) -> None:
        self.described = described if feeds else f"{RUNS} random inputs, seed {SEED}"
        self._before: list[list[Array]]
        session = _session(model)
        if feeds:
            self._feeds = list(feeds)
            self._before = [_run(session, f) for f in self._feeds]
        else:
            self._feeds, self._before = _random_runs(session)

    def drift(self, marked: Path | bytes, *, probe: bool = False) -> Drift:
        """Run a variant; a probe takes PROBES of the inputs, evenly apart. ModelError where it does not run."""
        session = _session(marked)
        taken = slice(None, None, max(1, len(self._feeds) // PROBES) if probe else 1)
        after = [_run(session, f) for f in self._feeds[taken]]
        pairs = zip(_by_output(self._before[taken]), _by_output(after), strict=True)
        found = [f for f in (_compare(b, a) for b, a in pairs) if f is not None]
        if not found:
            raise ModelError("no output is a float tensor, so drift cannot be measured")
        cosine, agreement, flipped, decided, turned, largest, mean = zip(*found, strict=True)
        return Drift(
            inputs=self.described,
            runs=len(after),
            cosine=min(cosine),
            agreement=min(agreement),
            flipped=max(flipped),
            decided=min(decided),
            turned=max(turned),
            largest=max(largest),
            mean=max(mean),
        )


def read_inputs(path: Path) -> list[Feed]:
    """An .npz archive: one array an input; ``NAME`` for one run, ``NAME.0``, ``NAME.1`` ... for several."""
    try:
        with _files.failures(path), open(_files.open_regular(path), "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_INPUTS:
                raise FormatError(f"{path}: larger than the limit of {MAX_INPUTS} bytes")
            archive = np.load(file, allow_pickle=False)
            arrays = {name: archive[name] for name in archive.files}
    except ModelVaultError:
        raise
    except Exception as error:  # numpy's header goes through Python's own tokenizer and parser
        raise FormatError(f"{path}: not a readable .npz archive ({type(error).__name__})") from None
    runs: dict[str, dict[str, Array]] = {}
    for name, array in arrays.items():
        stem, _, number = name.rpartition(".")
        key = (stem, number) if stem and NUMBER.fullmatch(number) else (name, "0")
        runs.setdefault(key[1], {})[key[0]] = array
    return [runs[n] for n in sorted(runs, key=int)]


def _session(model: Path | bytes) -> Any:
    from modelvault.session import plain_session

    try:
        return plain_session(model)
    except Exception as error:  # onnxruntime's own errors have no common base
        raise ModelError(f"onnxruntime does not load the model: {_first_line(error)}") from None


def _run(session: Any, feed: Feed) -> list[Array]:
    try:
        return list(session.run(None, dict(feed)))
    except Exception as error:
        raise ModelError(f"the model does not run on these inputs: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _random_runs(session: Any) -> tuple[list[Feed], list[list[Array]]]:
    """Random inputs of the first size that the model takes."""
    for size in SIZES:
        rng = np.random.default_rng(SEED)
        feeds = [{i.name: _random(rng, i, size) for i in session.get_inputs()} for _ in range(RUNS)]
        try:
            return list(feeds), [_run(session, f) for f in feeds]
        except ModelError as error:
            reason = error
    raise ModelError(f"random inputs do not fit: {reason}")


def _random(rng: np.random.Generator, entry: Any, size: int) -> Array:
    batch = 2 if len(entry.shape) > 1 else size
    open_sizes = [batch, *[size] * len(entry.shape)]
    shape = [d if isinstance(d, int) and d > 0 else s for d, s in zip(entry.shape, open_sizes, strict=False)]
    if entry.type == "tensor(bool)":
        return np.ones(shape, np.bool_)
    kinds = {"tensor(float)": "f4", "tensor(float16)": "f2", "tensor(double)": "f8"}
    if entry.type in kinds:
        return np.asarray(rng.standard_normal(shape)).astype(kinds[entry.type])
    integers = {"tensor(int64)": "i8", "tensor(int32)": "i4", "tensor(uint8)": "u1", "tensor(int8)": "i1"}
    if entry.type not in integers:
        raise ModelError(f"no random inputs for {entry.name[:60]!r}, which is a {entry.type}")
    if "mask" in entry.name:
        return np.ones(shape, integers[entry.type])
    high = 1 if "type" in entry.name else 100
    return rng.integers(0, high, shape).astype(integers[entry.type])


def _by_output(runs: list[list[Array]]) -> list[list[Array]]:
    return [list(column) for column in zip(*runs, strict=True)]


def _compare(before: list[Array], after: list[Array]) -> tuple[float, float, int, float, int, float, float] | None:
    """(cosine, agreement, rows flipped, both without ties, largest, mean) of one output; None for no floats."""
    if not all(isinstance(x, np.ndarray) and x.dtype.kind == "f" and x.size for x in before):
        return None
    if [x.shape for x in before] != [x.shape for x in after]:
        return 0.0, 0.0, len(before), 0.0, len(before), np.inf, np.inf
    a, b = (np.concatenate([x.astype(np.float64).reshape(-1) for x in xs]) for xs in (before, after))
    finite = np.isfinite(a) & np.isfinite(b)
    a, b = a[finite], b[finite]
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    rms = float(np.sqrt(np.mean(a * a))) or 1.0
    cosine = float(a @ b) / norm if norm > 0 else float(np.array_equal(a, b))
    off = np.abs(a - b)
    return cosine, *_agreement(before, after), float(off.max(initial=0)) / rms, float(off.mean()) / rms


def _agreement(before: list[Array], after: list[Array]) -> tuple[float, int, float, int]:
    """Share that agrees and count that does not, of all rows, and of those whose largest value stood out."""
    same, clear = [np.ones(0, np.bool_)], [np.ones(0, np.bool_)]
    for a, b in zip(before, after, strict=True):
        if a.ndim and a.shape[-1] > 1:
            top = np.partition(a, -2, axis=-1)
            reach = np.abs(a).max(axis=-1) * TIE
            same.append(np.ravel(np.argmax(a, axis=-1) == np.argmax(b, axis=-1)))
            clear.append(np.ravel(top[..., -1] - top[..., -2] > reach))
    equal, stood_out = np.concatenate(same), np.concatenate(clear)
    clear_equal = equal[stood_out]
    return _share(equal), _missed(equal), _share(clear_equal), _missed(clear_equal)


def _share(equal: npt.NDArray[np.bool_]) -> float:
    return float(equal.mean()) if equal.size else 1.0


def _missed(equal: npt.NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(~equal))
