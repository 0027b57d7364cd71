"""modelvault diff"""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelvault.cli.common import (
    FILE,
    ask_passphrase,
    bytes_in,
    json_option,
    passphrase_option,
    print_fields,
    print_json,
    print_table,
    progress_bar,
)
from modelvault.cli.opening import open_model
from modelvault.errors import FileError

if TYPE_CHECKING:
    from modelvault.diff import Comparison
    from modelvault.watermark.fidelity import Drift

DIFFERENT = 35
SHOWN = 12


@click.command(
    "diff",
    epilog="Examples: modelvault diff fraud-2.0.onnx fraud-2.1.onnx   |   "
    "modelvault diff fraud.onnx suspect.safetensors --align --html diff.html   |   "
    "modelvault diff fraud.onnx fraud.mvlt --json; exit status 35 means: they differ",
)
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@click.option("--align", is_flag=True, help="Undo permutations, scales and signs of weights.")
@click.option("--run", "run_both", is_flag=True, help="Run both on the same inputs and compare the outputs.")
@click.option("--inputs", type=FILE, metavar="FILE.npz", help="Inputs for --run. Default: random ones.")
@click.option("--html", "html", type=FILE, metavar="FILE", help="Write one page with plots.")
@click.option("--force", is_flag=True, help="Replace an existing page.")
@click.option("--identity", metavar="KEY", help="Recipient key that opens a sealed A or B.")
@click.option("--grant", type=FILE, help="A grant kept beside the sealed file.")
@passphrase_option
@json_option
def command(
    a: Path,
    b: Path,
    align: bool,
    run_both: bool,
    inputs: Path | None,
    html: Path | None,
    force: bool,
    identity: str | None,
    grant: Path | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> int:
    """Say what changed from model A to model B: graph and weights.

    A and B are ONNX, safetensors or .npz files, or sealed ones that you may open. Nodes and tensors are matched by
    what they are, not by their names alone. Exit status: 0 the same, 35 different. A page needs the plots:
    pip install 'modelvault[plots]'.
    """
    from modelvault.diff import SAME, compare
    from modelvault.diff.report import to_dict

    if html is not None and html.exists() and not force:
        raise FileError(f"{html}: exists already")
    if inputs is not None and not run_both:
        raise click.UsageError("--inputs: only --run takes inputs")
    ask = ask_passphrase(passphrase_file)
    with contextlib.ExitStack() as stack:
        step = stack.enter_context(progress_bar("comparing", 2 * bytes_in(a) + bytes_in(b)))
        sides = [open_model(stack, path, identity, grant, ask, "diff") for path in (a, b)]
        drift = _drift(sides, inputs) if run_both else None
        found = compare(*sides, align=align, progress=step)
        if html is not None:
            from modelvault.diff.page import write

            write(html, found, drift)
    if as_json:
        print_json({**to_dict(found), "drift": drift.to_dict() if drift else None})
    else:
        _print(found, drift, html)
    return 0 if found.verdict.word in SAME else DIFFERENT


def _drift(sides: Sequence[object], inputs: Path | None) -> "Drift":
    from modelvault.watermark.fidelity import Bench, read_inputs

    a, b = sides
    if not isinstance(a, Path) or not isinstance(b, Path):
        raise click.UsageError("--run: takes plain models; a sealed one is run by modelvault run")
    return Bench(a, read_inputs(inputs) if inputs else None, inputs.name if inputs else "").drift(b)


def _print(found: "Comparison", drift: "Drift | None", html: Path | None) -> None:
    from modelvault.diff.verdict import WORDS

    v = found.verdict
    fields: list[tuple[str, object]] = [
        ("verdict", [v.word, WORDS[v.word]]),
        ("weights", [f"{v.share_same:.2%} unchanged, {v.share_derived:.2%} unchanged or near", _relative(found)]),
        ("tensors", _counts(found)),
    ]
    fields += [("graph", line) for line in _graph(found)]
    if drift:
        agreement = f"arg-max agreement {drift.agreement:.4f}"
        fields += [("outputs", [f"cosine {drift.cosine:.6f}, {agreement}", f"on {drift.inputs}"])]
    fields += [("page", html)] if html else []
    print_fields(fields)
    _print_nodes(found)
    _print_tensors(found)


def _relative(found: "Comparison") -> str:
    return f"relative change of the changed tensors {found.verdict.relative:.3g}"


def _counts(found: "Comparison") -> list[str]:
    v = found.verdict
    return [
        f"{v.tensors} in A: {v.same} the same, {v.unchanged} stored otherwise, {v.changed} changed",
        f"{v.removed} removed, {v.added} added",
    ]


def _graph(found: "Comparison") -> list[list[str]]:
    from modelvault.diff.report import operators

    graph, a, b = found.graph, found.a.graph, found.b.graph
    if graph is None or a is None or b is None:
        return [["not compared: a file holds tensors alone"]]
    lines = [
        f"{len(a.nodes)} nodes in A, {len(b.nodes)} in B: {len(graph.pairs)} matched, {graph.renamed} renamed",
        f"{len(graph.changed)} with other attributes, {len(graph.rewired)} with other inputs",
    ]
    for word, side, numbers in (("removed", a, graph.removed), ("added", b, graph.added)):
        if numbers:
            counted = operators(side, numbers).most_common()
            ops = [f"{count} {op}" for op, count in counted[:5]]
            lines.append(f"{len(numbers)} {word}: {', '.join(ops)}{' ...' if len(counted) > 5 else ''}")
    return [lines]


def _print_nodes(found: "Comparison") -> None:
    from modelvault.diff.report import changed_nodes

    graph, a, b = found.graph, found.a.graph, found.b.graph
    if graph is None or a is None or b is None:
        return
    _table(
        ["header, input or output", "A", "B"], [(k, x or "-", y or "-") for k, x, y in (*graph.facts, *graph.values)]
    )
    _table(["node", "what differs"], changed_nodes(graph, a, b))


def _print_tensors(found: "Comparison") -> None:
    from modelvault.diff.report import by_change, figures

    rows = []
    for t in by_change(found):
        if t.quiet:
            break
        name = t.a.name if t.a.name == t.name else f"{t.a.name} -> {t.name}"
        words = ", ".join(t.undone) or (t.dtype.lower() if t.dtype != t.a.dtype else "-")
        rows.append((*figures(t), words, name))
    _table(["change", "cosine", "share", "stored", "tensor"], rows)
    for word, tensors in (("removed", found.removed), ("added", found.added)):
        _table([f"{word}: type", "shape", "tensor"], [(t.dtype.lower(), str(list(t.shape)), t.name) for t in tensors])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """At most SHOWN rows, each cell on one line and short enough for the last to be seen."""
    rows = list(rows)
    if not rows:
        return
    click.echo()
    print_table(header, [[_cell(c, 30) for c in row[:-1]] + [_cell(row[-1], 80)] for row in rows[:SHOWN]])
    if len(rows) > SHOWN:
        click.echo(f"... and {len(rows) - SHOWN} more: see --json")


def _cell(text: str, most: int) -> str:
    """Names come from the models: nothing of them may steer a terminal."""
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."
