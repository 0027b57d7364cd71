"""One page about a leak for a court or a manager: who is named, what that is worth, and what it does not show."""

import html
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from modelvault import page, plots
from modelvault._codec import format_time
from modelvault._version import __version__
from modelvault.fingerprint.tracing import NAME_BELOW, Trace
from modelvault.variants import SCHEME

TABLE = 60
LEFT = -20.0  # where the plot ends: further left says no more


def write(output: Path, found: Trace, suspect: Path, base: Path, *, committed: bool) -> None:
    """Write the page, atomically. ``committed``: the sealed file's signed statement commits to slots and code.

    Raises FileError, and ModelVaultError without matplotlib.
    """
    page.write(output, "Leak evidence", _sections(found, suspect, base, committed=committed))


def _sections(found: Trace, suspect: Path, base: Path, *, committed: bool) -> Iterable[str]:
    yield _headline(found, suspect)
    yield _meaning(found)
    yield f"<figure>{_plot(found)}<figcaption>Every recipient in the registry. Right of the dashed line: named."
    yield "</figcaption></figure>"
    yield _ranking(found)
    yield _compared(found, suspect, base, committed=committed)
    yield _limits()


def _headline(found: Trace, suspect: Path) -> str:
    name = html.escape(suspect.name)
    if not found.named:
        words = f"Nobody is named: <b>{name}</b> fits no recipient's copy beyond chance."
        return f'<h1>Leak evidence</h1><section class="none"><p>{words}</p></section>'
    who = ", ".join(f"<b>{html.escape(s.issued.label or s.issued.recipient)}</b>" for s in found.named)
    worst = page.power(max(s.log10_p for s in found.named))
    return (
        f'<h1>Leak evidence</h1><section class="claim"><p><b>{name}</b> was made from the copy of {who}.</p>'
        f"<p>The probability that any innocent recipient scores so high is at most <b>{worst}</b>.</p></section>"
    )


def _meaning(found: Trace) -> str:
    return f"""<h2>What the number means</h2>
<p>Every recipient's copy differs from every other in {found.slots[1]:,} places, by bits drawn from the owner's secret
and the recipient's key. The score compares how likely this file is if a recipient's copy was among those it was made
from, with how likely it is otherwise. For a recipient who had no part in it, that ratio is 1 on average <em>whatever
was done to the file and by whomever</em>, because the file was then made without knowing that recipient's bits; so it
reaches 1/p with a probability of p at most (Markov's inequality). The bound is multiplied by the number of recipients
({len(found.suspicions):,}). A recipient is named at {page.power(NAME_BELOW)} or less, fixed beforehand.</p>"""


def _plot(found: Trace) -> str:
    figure, axes = plots.figure(8, 3)
    trials = math.log10(max(len(found.suspicions), 1))
    scores = [max(LEFT, trials - s.log10_p) if s.log10_p < 0 else 0.0 for s in found.suspicions]
    innocent = [v for v, s in zip(scores, found.suspicions, strict=True) if not s.named]
    axes.hist(innocent or [0.0], bins=30, color=plots.CHANCE, label=f"{len(innocent)} not named")
    for value, suspicion in zip(scores, found.suspicions, strict=True):
        if suspicion.named:
            axes.axvline(value, color=plots.MARK, lw=2, label=plots.short(suspicion.issued.label or "named"))
    axes.axvline(trials - NAME_BELOW, color=plots.INK, ls="--", lw=1, label="named from here on")
    axes.set_yscale("symlog")
    axes.set_xlabel("evidence: power of ten of the likelihood ratio (0 or less: none)")
    axes.set_ylabel("recipients")
    axes.legend(facecolor="white", edgecolor="none", framealpha=1, fontsize=8)
    return plots.svg(figure)


def _ranking(found: Trace) -> str:
    rows = [
        ("named" if s.named else "not named", s.issued.label or "-", s.issued.recipient, s.how, f"10^{s.log10_p:.1f}")
        for s in found.suspicions[:TABLE]
    ]
    more = len(found.suspicions) - len(rows)
    rest = f"<p>... and {more} more recipients, none likelier than these.</p>" if more > 0 else ""
    return (
        "<h2>Recipients, the likeliest first</h2>"
        + page.table(("", "name", "key", "fits best", "chance"), rows, numbers=1)
        + rest
    )


def _compared(found: Trace, suspect: Path, base: Path, *, committed: bool) -> str:
    facts = [
        ("suspect", f"{suspect.name}, {suspect.stat().st_size:,} bytes"),
        ("its SHA-256", page.sha256(suspect)),
        ("compared with", base.name),
        ("its SHA-256", page.sha256(base)),
        ("the original's weights", found.original.hex()),
        ("slots found", f"{found.slots[0]:,} of {found.slots[1]:,}"),
        ("fixed before any copy left", "yes: the signed statement commits to it" if committed else "not shown here"),
        ("method", f"{SCHEME}, modelvault {__version__}, {format_time(datetime.now(UTC).replace(microsecond=0))}"),
    ]
    return "<h2>What was compared</h2>" + page.facts(facts)


def _limits() -> str:
    return (
        "<h2>What this does not show</h2><ul>"
        "<li>Who at a recipient let the copy out, or whether it was stolen there.</li>"
        "<li>That the publisher did not let it out: it can make every recipient's copy itself.</li>"
        "<li>That recipients who are not named had no part: of several who blended their copies, some may stay hidden."
        "</li><li>Anything, if the owner's secret was known to others.</li></ul>"
        "<p>The code, its bound and simulations are published: docs/FINGERPRINTS.md.</p>"
    )
