"""One page about what changed between two models: verdict, figures, plots, tables."""

import html
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from modelvault import page
from modelvault.diff import plots
from modelvault.diff.comparing import Comparison
from modelvault.diff.report import by_change, changed_nodes, figures, node_name, operators
from modelvault.diff.sides import Side
from modelvault.diff.verdict import SAME, WORDS, TensorDiff
from modelvault.tensorfile import StoredTensor
from modelvault.watermark.fidelity import Drift

TABLE = 200


def write(output: Path, found: Comparison, drift: Drift | None = None) -> None:
    """Write the page, atomically. Raises FileError, and ModelVaultError without matplotlib."""
    page.write(output, "Comparison of two models", _sections(found, drift))


def _sections(found: Comparison, drift: Drift | None) -> Iterator[str]:
    yield _headline(found)
    yield "<h2>What was compared</h2>" + page.facts([*_side("A", found.a), *_side("B", found.b)])
    yield "<h2>Weights</h2>" + page.facts(_weights(found))
    if found.tensors:
        yield f"<figure>{plots.change_plot(found.tensors)}<figcaption>Each tensor of A against its counterpart in B. "
        yield "Ticks at the bottom: the same, or equal once rounding and order are undone.</figcaption></figure>"
    changed = [t for t in by_change(found) if t.change is not None and t.change.relative > 0]
    if changed:
        yield f"<figure>{plots.elements_plot(changed)}<figcaption>The most changed tensors, element by element "
        yield "(an even sample of up to 4,096 each; what lies beyond the axis is counted at its ends).</figcaption>"
        yield "</figure>"
    yield _tensors(found)
    yield from _graph(found)
    if drift is not None:
        yield "<h2>Outputs</h2>" + page.facts(_drift(drift))
    yield "<h2>How to read this</h2><p>Nodes and tensors are matched by what they compute and hold, not by names "
    yield "alone. The verdict's words and thresholds, and what a comparison cannot show, are in docs/DIFF.md.</p>"


def _headline(found: Comparison) -> str:
    word = found.verdict.word
    kind = "same" if word in SAME else "claim"
    names = f"<b>{html.escape(found.a.path.name)}</b> and <b>{html.escape(found.b.path.name)}</b>"
    return (
        f'<h1>Comparison of two models</h1><section class="{kind}"><p>{names}: <b>{word}</b></p>'
        f"<p>{html.escape(WORDS[word])}.</p></section>"
    )


def _side(letter: str, side: Side) -> list[tuple[str, str]]:
    graph = f", {len(side.graph.nodes)} nodes" if side.graph is not None else ", no graph"
    return [
        (letter, f"{side.path.name}, {side.kind}, {len(side.tensors)} tensors{graph}"),
        (f"{letter}'s SHA-256", side.file.hex()),
    ]


def _weights(found: Comparison) -> list[tuple[str, str]]:
    v = found.verdict
    changed = f"{v.relative:.4g}" if math.isfinite(v.relative) else "beyond measure: A's are zero"
    return [
        ("tensors", f"{v.tensors} in A: {v.same} the same, {v.unchanged} stored otherwise, {v.changed} changed"),
        ("without a counterpart", f"{v.removed} of A, {v.added} of B"),
        ("elements unchanged", f"{v.share_same:.2%}"),
        ("elements unchanged or near", f"{v.share_derived:.2%}"),
        ("relative change of changed tensors", changed),
    ]


def _tensors(found: Comparison) -> str:
    rows = [_row(t) for t in by_change(found) if not t.quiet]
    head = ("tensor of A", "in B", "found by, undone", "type", "shape", "change", "cosine", "share")
    alone = [(t.name, word, t.dtype.lower(), _shape(t)) for word, t in _alone(found)]
    return (
        _details("Changed tensors", head, rows, numbers=3, shown=True)
        + _details("Tensors without a counterpart", ("tensor", "where", "type", "shape"), alone)
        or "<p>No tensor changed.</p>"
    )


def _alone(found: Comparison) -> list[tuple[str, StoredTensor]]:
    return [("only in A", t) for t in found.removed] + [("only in B", t) for t in found.added]


def _row(t: TensorDiff) -> tuple[str, ...]:
    dtype = t.a.dtype.lower() if t.a.dtype == t.dtype else f"{t.a.dtype.lower()} -> {t.dtype.lower()}"
    shape = _shape(t.a) if t.a.shape == t.shape else f"{_shape(t.a)} -> {list(t.shape)}"
    name = t.name if t.name != t.a.name else ""
    return (t.a.name, name, ", ".join((t.how, *t.undone)), dtype, shape, *figures(t))


def _shape(tensor: StoredTensor) -> str:
    return str(list(tensor.shape))


def _graph(found: Comparison) -> Iterator[str]:
    graph, a, b = found.graph, found.a.graph, found.b.graph
    yield "<h2>Graph</h2>"
    if graph is None or a is None or b is None:
        yield "<p>Not compared: a file holds tensors alone.</p>"
        return
    yield page.facts(
        [
            ("nodes", f"{len(graph.pairs)} matched, {graph.renamed} of them renamed"),
            ("of these", f"{len(graph.changed)} with other attributes, {len(graph.rewired)} with other inputs"),
            ("without a counterpart", f"{len(graph.removed)} of A, {len(graph.added)} of B"),
        ]
    )
    facts = [(k, x or "-", y or "-") for k, x, y in (*graph.values, *graph.facts)]
    yield _details("Header, metadata, inputs and outputs", ("what", "A", "B"), facts)
    if graph.removed or graph.added:
        yield f"<figure>{plots.operators_plot(operators(a, graph.removed), operators(b, graph.added))}</figure>"
    yield _details("Changed nodes", ("node", "what differs"), changed_nodes(graph, a, b))
    alone = [("only in A", node_name(a.nodes[i])) for i in graph.removed]
    alone += [("only in B", node_name(b.nodes[j])) for j in graph.added]
    yield _details("Nodes without a counterpart", ("where", "node"), alone)


def _details(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 0, shown: bool = False
) -> str:
    if not rows:
        return ""
    more = f"<p>... and {len(rows) - TABLE} more: see --json.</p>" if len(rows) > TABLE else ""
    table = page.table(header, rows[:TABLE], numbers=numbers)
    opening = "<details open>" if shown else "<details>"
    return f"{opening}<summary>{title} ({len(rows)})</summary>{table}{more}</details>"


def _drift(drift: Drift) -> list[tuple[str, str]]:
    return [
        ("inputs", drift.inputs),
        ("cosine", f"{drift.cosine:.6f}"),
        ("arg-max agreement", f"{drift.agreement:.4f}, without ties {drift.decided:.4f}"),
        ("largest difference", f"{drift.largest:.4g} of the output's rms"),
    ]
