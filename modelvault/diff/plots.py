"""The page's plots, as SVG: how much each tensor changed, how its elements did, and which operators came and went."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from modelvault import plots
from modelvault.diff.change import Values
from modelvault.diff.verdict import TensorDiff
from modelvault.plots import CHANCE, INK, MARK

LEAST, MOST = 1e-8, 1e2  # relative changes outside are drawn at the edge
SHOWN = 6
OPERATORS = 20
BINS = 61
COLOURS = (MARK, INK, CHANCE)


def change_plot(tensors: Sequence[TensorDiff]) -> str:
    """Relative change of every compared tensor, in the order of the model; its colour tells how near it stayed."""
    figure, axes = plots.figure(8, 3)
    heights = [_height(t) for t in tensors]
    same = [place for place, t in enumerate(tensors) if t.same or heights[place] == 0]
    for colour, label, kept in (
        (CHANCE, "from A, or stored otherwise", lambda t: t.derived or t.unchanged),
        (MARK, "unlike A", lambda t: not (t.derived or t.unchanged)),
    ):
        places = [p for p, t in enumerate(tensors) if p not in set(same) and kept(t)]
        if places:
            width = min(3.0, max(0.6, 100 / len(tensors)))
            axes.vlines(places, LEAST, [heights[p] for p in places], color=colour, lw=width)
            axes.plot(places, [heights[p] for p in places], ls="none", marker="o", ms=3, color=colour, label=label)
    axes.plot(same, [LEAST] * len(same), ls="none", marker="|", ms=4, color=INK, label="the same", clip_on=False)
    axes.set_yscale("log")
    plots.powers(axes.yaxis)
    axes.set_ylim(LEAST, MOST)
    axes.set_xlim(-0.5, max(len(tensors), 1) - 0.5)
    axes.set_xlabel("tensor, in A's order")
    axes.set_ylabel("||B - A|| / ||A||")
    axes.legend(facecolor="white", edgecolor="none", framealpha=1, fontsize=8, loc="upper right", ncols=3)
    return plots.svg(figure)


def _height(tensor: TensorDiff) -> float:
    if tensor.change is None:
        return 0.0 if tensor.same else MOST
    return min(max(tensor.change.relative, LEAST), MOST) if tensor.change.relative > 0 else 0.0


def elements_plot(tensors: Sequence[TensorDiff]) -> str:
    """Of the most changed tensors, how many elements changed by how much, over the rms of A's."""
    rows = [t for t in tensors if t.change is not None and t.change.relative > 0][:SHOWN]
    figure, axes = plots.figure(8, 3.8)
    widest = max((_spread(t) for t in rows), default=1.0) or 1.0
    edges = np.linspace(-widest, widest, BINS)
    for number, tensor in enumerate(rows):
        counts, _ = np.histogram(np.clip(_offsets(tensor), -widest, widest), bins=edges)
        colour, style = COLOURS[number % len(COLOURS)], "--" if number >= len(COLOURS) else "-"
        share, label = counts / max(counts.sum(), 1), plots.short(tensor.a.name)
        axes.stairs(share, edges, color=colour, ls=style, lw=1.2, label=label)
    axes.set_yscale("log")
    plots.powers(axes.yaxis)
    axes.set_xlabel("change of an element, over the rms of A's elements")
    axes.set_ylabel("share of elements")
    figure.legend(edgecolor="none", fontsize=7, loc="outside lower center", ncols=2)
    return plots.svg(figure)


def _offsets(tensor: TensorDiff) -> Values:
    assert tensor.change is not None
    a, b = tensor.change.sample
    kept = np.isfinite(a) & np.isfinite(b)
    a, b = a[kept].astype(np.float64), b[kept].astype(np.float64)
    return (b - a) / (np.sqrt(np.mean(a * a)) or 1.0) if len(a) else np.zeros(0)


def _spread(tensor: TensorDiff) -> float:
    offsets = np.abs(_offsets(tensor))
    return float(np.quantile(offsets, 0.995)) if len(offsets) else 0.0


def operators_plot(removed: Counter[str], added: Counter[str]) -> str:
    """Nodes without a counterpart, by operator: removed to the left, added to the right."""
    most = [op for op, _ in (removed + added).most_common(OPERATORS)][::-1]
    figure, axes = plots.figure(8, 0.8 + 0.22 * max(len(most), 3))
    axes.barh(range(len(most)), [-removed[op] for op in most], color=MARK, height=0.7, label="only in A")
    axes.barh(range(len(most)), [added[op] for op in most], color=CHANCE, height=0.7, label="only in B")
    axes.set_yticks(range(len(most)), [plots.short(op) for op in most], fontsize=7)
    axes.axvline(0, color=INK, lw=0.8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
    axes.set_xlabel("nodes without a counterpart")
    axes.legend(facecolor="white", edgecolor="none", framealpha=1, fontsize=8, loc="lower right")
    return plots.svg(figure)
