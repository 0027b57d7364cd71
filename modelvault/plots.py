"""Plots as SVG for a page. matplotlib (the extra ``plots``) is imported when they are drawn."""

import io
from typing import Any

from modelvault.errors import ModelVaultError

INK, MARK, CHANCE = "#1d2733", "#b3261e", "#8aa4c0"


def short(name: str) -> str:
    """A name that fits beside a plot."""
    return name if len(name) <= 44 else "..." + name[-41:]


def figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure of that many inches, and its axes. ModelVaultError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ModelVaultError("plots need matplotlib, which is not installed") from None
    drawn = Figure(figsize=(width, height), layout="constrained")
    axes = drawn.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return drawn, axes


def svg(drawn: Any) -> str:
    """SVG text for an HTML page; the same numbers always give the same picture. Names in it are drawn as paths."""
    from matplotlib import rc_context

    out = io.StringIO()
    with rc_context({"svg.hashsalt": "modelvault", "svg.fonttype": "path", "text.parse_math": False}):
        drawn.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def powers(axis: Any) -> None:
    """Label a logarithmic axis in plain text: names in a page are no mathematics, so nothing in it is read as such."""
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda _, __: "")
