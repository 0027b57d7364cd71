"""The query guard: limits by caller, and patterns that belong to copying a model rather than to using it.

Extraction attacks query around a few seeds, in steps of one size, or along a grid. After PRADA (Juuti et al., "PRADA:
Protecting against DNN Model Stealing Attacks", EuroS&P 2019) the guard watches how far each query lies from the nearest
earlier one of its caller. PRADA tests the distances for normality; this is a cheaper cousin: shares of near-duplicates
and of equal steps, over a sliding window and a random projection. A patient thief who imitates real traffic, or shares
the work over many identities, passes: limits make that slow, nothing here makes it impossible.
"""

import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modelvault.errors import QueryRefused

WINDOW = 256  # earlier queries of a caller that a new one is compared with
SAMPLE = 4096  # elements of an input that the sketch reads at most
SKETCH = 32  # dimensions of the sketch
WARM = 64  # queries before patterns are judged
MAX_CALLERS = 10_000
ANONYMOUS = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryLimits:
    """Limits by caller; None means no limit. Shares are from 0 to 1, over the caller's last WINDOW queries.

    ``per_minute`` and ``total`` count calls; ``rejected`` is the share of calls that the input guard rejected;
    ``near_duplicates`` and ``equal_steps`` the shares of queries that lie very close to an earlier one, and that lie as
    far from their nearest as the one before did (a grid, or a walk). ``refuse`` says whether exceeding a limit refuses
    the call or is only counted.
    """

    per_minute: int | None = None
    total: int | None = None
    rejected: float | None = None
    near_duplicates: float | None = None
    equal_steps: float | None = None
    refuse: bool = True

    @property
    def watches_patterns(self) -> bool:
        return self.near_duplicates is not None or self.equal_steps is not None


@dataclass(slots=True)
class _Caller:
    calls: int = 0
    refused: int = 0
    rejected: int = 0
    recent: deque[float] = field(default_factory=deque)
    outcomes: deque[bool] = field(default_factory=lambda: deque(maxlen=WINDOW))
    sketches: Any = field(default_factory=lambda: np.zeros((WINDOW, SKETCH), np.float32))
    seen: int = 0
    near: deque[bool] = field(default_factory=lambda: deque(maxlen=WINDOW))
    equal: deque[bool] = field(default_factory=lambda: deque(maxlen=WINDOW))
    step: float = 0.0


class QueryGuard:
    """Counts and judges calls. Not thread-safe by itself: the session calls it under its own lock."""

    def __init__(self, limits: QueryLimits) -> None:
        self._limits = limits
        self._callers: OrderedDict[str, _Caller] = OrderedDict()
        self._projections: dict[int, Any] = {}
        self._random = np.random.default_rng(secrets.randbits(128))  # a thief must not know the projection
        self._exceeded: dict[str, int] = {}

    def admit(self, caller: str, feed: Mapping[str, Any]) -> None:
        """Count a call and judge it; QueryRefused names the limit, where limits refuse."""
        known = self._caller(caller)
        known.calls += 1
        reason = self._judge(known, feed)
        if reason is None:
            return
        self._exceeded[reason] = self._exceeded.get(reason, 0) + 1
        if self._limits.refuse:
            known.refused += 1
            raise QueryRefused(f"caller {caller[:80]!r}: {reason}")

    def note_rejection(self, caller: str, rejected: bool) -> None:
        """What the input guard said of the caller's latest call."""
        known = self._caller(caller)
        known.rejected += rejected
        known.outcomes.append(rejected)

    def summary(self) -> dict[str, Any]:
        """For the audit record: totals, limits exceeded, and the busiest callers."""
        busiest = sorted(self._callers.items(), key=lambda item: -item[1].calls)[:20]
        return {
            "callers": {name: {"calls": c.calls, "refused": c.refused, "rejected": c.rejected} for name, c in busiest},
            "exceeded": dict(self._exceeded),
        }

    def _caller(self, name: str) -> _Caller:
        known = self._callers.get(name)
        if known is None:
            known = self._callers[name] = _Caller()
            if len(self._callers) > MAX_CALLERS:
                self._callers.popitem(last=False)
        self._callers.move_to_end(name)
        return known

    def _judge(self, known: _Caller, feed: Mapping[str, Any]) -> str | None:
        limits = self._limits
        if limits.total is not None and known.calls > limits.total:
            return f"more than {limits.total} calls"
        if limits.per_minute is not None and _rate(known, limits.per_minute) > limits.per_minute:
            return f"more than {limits.per_minute} calls a minute"
        if limits.rejected is not None and _share(known.outcomes) > limits.rejected:
            return "too many inputs outside the envelope"
        if limits.watches_patterns:
            self._watch(known, feed)
        if limits.near_duplicates is not None and _share(known.near) > limits.near_duplicates:
            return "too many near-duplicate queries"
        if limits.equal_steps is not None and _share(known.equal) > limits.equal_steps:
            return "queries in equal steps"
        return None

    def _watch(self, known: _Caller, feed: Mapping[str, Any]) -> None:
        """Measure the distance of the call's sketch to the nearest earlier one."""
        sketch = self._sketch(feed)
        if sketch is None:
            return
        filled = min(known.seen, WINDOW)
        if filled:
            nearest = float(np.sqrt(((known.sketches[:filled] - sketch) ** 2).sum(axis=1).min()))
            size = float(np.sqrt((sketch**2).sum())) + 1e-12
            known.near.append(nearest < 0.01 * size)
            known.equal.append(abs(nearest - known.step) <= 0.01 * max(nearest, known.step, 1e-12))
            known.step = nearest
        known.sketches[known.seen % WINDOW] = sketch
        known.seen += 1

    def _sketch(self, feed: Mapping[str, Any]) -> Any:
        """A random projection of the call's numbers (Johnson-Lindenstrauss): distances survive, the input does not."""
        parts = []
        for name in sorted(feed):
            value = feed[name]
            if isinstance(value, np.ndarray) and value.dtype.kind in "iufb" and value.size:
                flat = value.reshape(-1)
                parts.append(flat[:: max(1, flat.size // SAMPLE)][:SAMPLE].astype(np.float32))
        if not parts:
            return None
        vector = np.concatenate(parts)
        matrix = self._projections.get(vector.size)
        if matrix is None:
            if len(self._projections) >= 8:  # inputs of changing shapes: keep memory bounded
                self._projections.clear()
            matrix = self._random.standard_normal((vector.size, SKETCH), np.float32)
            self._projections[vector.size] = matrix
        return vector @ matrix


def _rate(known: _Caller, limit: int) -> int:
    """Calls in the last minute, counted up to just above the limit."""
    now = time.monotonic()
    known.recent.append(now)
    while known.recent[0] < now - 60 or len(known.recent) > limit + 1:
        known.recent.popleft()
    return len(known.recent)


def _share(flags: deque[bool]) -> float:
    return sum(flags) / len(flags) if len(flags) >= WARM else 0.0
