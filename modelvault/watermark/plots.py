"""The evidence page's two plots, as SVG."""

import math
from collections.abc import Sequence

import numpy as np

from modelvault import plots
from modelvault.plots import CHANCE, INK, MARK
from modelvault.watermark.null import Null, Scores

FAR = 12.0
LINEAR = 5  # a score axis is linear up to here, then logarithmic
SHOWN = 24


def null_plot(null: Null, z: float, threshold_z: float) -> str:
    """A histogram of random keys' scores, the normal curve, the claim's threshold, and the owner's key."""
    figure, axes = plots.figure(8, 3.2)
    axes.hist(null.whole, bins=40, density=True, color=CHANCE, label=f"{len(null.whole)} random keys, measured")
    x = np.linspace(-5, 5, 400)
    axes.plot(x, np.exp(-x * x / 2) / math.sqrt(2 * math.pi), color=INK, lw=1, label="normal distribution")
    axes.axvline(threshold_z, color=INK, ls="--", lw=1, label=f"threshold of a claim, {threshold_z:.1f}")
    right = max(FAR, threshold_z + 2)
    if z <= right:
        axes.axvline(z, color=MARK, lw=2, label=f"the owner's key, {z:.1f}")
    else:
        label = f"the owner's key, {z:.1f}: far to the right"
        axes.plot([right - 0.4], [0.05], marker=">", ms=10, color=MARK, ls="none", label=label, clip_on=False)
    axes.set_xlim(-5, right)
    axes.set_xlabel("score in standard deviations")
    axes.set_ylabel("density")
    axes.legend(facecolor="white", edgecolor="none", framealpha=1, fontsize=8, loc="upper right")
    return plots.svg(figure)


def tensor_plot(rows: Sequence[tuple[str, float, Scores]]) -> str:
    """Each tensor's score with the owner's key against the range of all random keys; the first SHOWN rows."""
    rows = list(reversed(rows[:SHOWN]))
    figure, axes = plots.figure(8, 0.6 + 0.24 * max(len(rows), 3))
    for place, (_, z, chance) in enumerate(rows):
        axes.barh(place, float(chance.max() - chance.min()), left=float(chance.min()), color=CHANCE, height=0.7)
        axes.plot([z], [place], marker="o", ms=5, color=MARK, ls="none")
    axes.set_yticks(range(len(rows)), [plots.short(name) for name, _, _ in rows], fontsize=7)
    axes.set_xscale("symlog", linthresh=LINEAR)
    highest = max((z for _, z, _ in rows), default=0.0)
    ticks = [t for t in (-5, -2, 0, 2, 5, 10, 100, 1000, 10_000, 100_000) if t <= max(10, 2 * highest)]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel("score (linear to 5, then logarithmic); bars: all random keys; dots: the owner's key")
    return plots.svg(figure)
