"""One self-contained page over many logs: verdicts, loads, denials, models, what is unusual. Extra: plots."""

import html
import io
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from modelvault._codec import format_time
from modelvault.audit.findings import Findings, Model
from modelvault.errors import ModelVaultError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RARE = 0.01  # a share of all loads below which an hour or a caller is called unusual
ENOUGH = 100  # loads below which nothing is called unusual
SHOWN = 20
LABEL = 40  # characters
YEARS = "2000", "2200"  # a clock that was elsewhere is not drawn
GOOD, BAD, INK = "#2f6f9f", "#b5382a", "#444444"

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid #ddd;padding-bottom:.2rem}
table{border-collapse:collapse;width:100%;font-size:.88rem}th{text-align:left;color:#555;font-weight:600}
td,th{padding:.25rem .6rem .25rem 0;border-bottom:1px solid #eee;vertical-align:top;overflow-wrap:break-word}
td:first-child{max-width:15rem}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.ok,.bad{font-weight:600;white-space:nowrap}.ok{color:#22723a}.bad{color:#b5382a}
figure{margin:.5rem 0}svg{width:100%;height:auto}
.note{color:#555;font-size:.88rem}
@media print{body{margin:0;max-width:none;font-size:11px}h2,figure,tr{break-inside:avoid}}
"""


def render(findings: Sequence[Findings], *, now: datetime) -> str:
    """The page as HTML without scripts or outside parts. ModelVaultError where matplotlib is not installed."""
    good = [f for f in findings if f.verdict == "ok"]
    loads, denied = _sum(f.loads for f in good), _sum(f.denied for f in good)
    parts = [
        "<h1>Audit report</h1>",
        f'<p class="note">{len(findings)} logs, {len(good)} verified, {sum(f.records for f in good)} records, '
        f"{loads.total()} loads, {denied.total()} denied. Made {format_time(now.replace(microsecond=0))}. "
        "Times are the hosts' own, in UTC. Nothing is counted from a log that does not verify.</p>",
        "<h2>Logs</h2>",
        _logs(findings),
        "<h2>Loads over time</h2>",
        _over_time(loads, denied),
        "<h2>Denied loads by reason</h2>",
        _reasons(_sum(f.reasons for f in good)),
        "<h2>Models in use</h2>",
        _models(good),
        "<h2>Unusual hours and callers</h2>",
        _unusual(good, loads),
    ]
    head = f'<meta charset="utf-8"><title>Audit report</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _sum(counters: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter)
    return total


def _logs(findings: Sequence[Findings]) -> str:
    rows = []
    for found in sorted(findings, key=lambda f: (f.verdict == "ok", f.log)):
        verdict = ("ok" if found.verdict == "ok" else "bad", found.verdict)
        notes = [found.reason] if found.reason else []
        notes += [f"{found.recovered} times recovered after a crash"] if found.recovered else []
        notes += [f"clock stepped back {found.steps_back} times"] if found.steps_back else []
        notes += [f"{found.pruned} records pruned"] if found.pruned else []
        span = f"{_minute(found.first)} to {_minute(found.last)}" if found.first else ""
        rows.append([found.log, verdict, found.records, found.epochs, span, "; ".join(notes)])
    return _table(["log", "verdict", "records", "epochs", "from, to", "notes"], rows)


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")


def _models(good: Sequence[Findings]) -> str:
    total: dict[tuple[str, str], Model] = {}
    hosts: Counter[tuple[str, str]] = Counter()
    for found in good:
        for name, model in found.models.items():
            total.setdefault(name, Model()).add(model)
            hosts[name] += 1
    rows = [
        [name, version, hosts[name, version], m.loads, m.denials, m.runs, m.rejected, _minute(m.last)]
        for (name, version), m in sorted(total.items())
    ]
    return _table(["model", "version", "hosts", "loads", "denied", "runs", "rejected inputs", "last"], rows)


def _reasons(reasons: Counter[str]) -> str:
    if not reasons:
        return '<p class="note">None.</p>'
    top = reasons.most_common(SHOWN)

    def draw(axes: "Axes") -> None:
        names = [name if len(name) <= LABEL else f"{name[:LABEL]}..." for name, _ in reversed(top)]
        axes.barh(range(len(top)), [count for _, count in reversed(top)], color=BAD, tick_label=names)
        axes.set_xlabel("denied loads")

    return _plot(draw, height=0.7 + 0.32 * len(top), words="Denied loads by reason")


def _over_time(loads: Counter[str], denied: Counter[str]) -> str:
    hours = sorted(hour for hour in {*loads, *denied} if YEARS[0] <= hour < YEARS[1])
    if not hours:
        return '<p class="note">No loads.</p>'
    first, last = (datetime.fromisoformat(f"{hour}:00:00+00:00") for hour in (hours[0], hours[-1]))
    daily = last - first > timedelta(days=4)
    step, width = (timedelta(days=1), 10) if daily else (timedelta(hours=1), 13)
    first = first.replace(hour=0) if daily else first
    count = (last - first) // step + 1
    ticks = [(first + number * step).isoformat()[:width] for number in range(min(count, 5000))]
    done, refused = _group(loads, width), _group(denied, width)

    def draw(axes: "Axes") -> None:
        from matplotlib.dates import ConciseDateFormatter

        places = [datetime.fromisoformat(tick if daily else f"{tick}:00:00") for tick in ticks]
        good = [done[tick] for tick in ticks]
        axes.bar(places, good, width=step * 0.9, color=GOOD, label="done", align="edge")  # type: ignore[arg-type]
        bad = [refused[tick] for tick in ticks]
        axes.bar(places, bad, width=step * 0.9, bottom=good, color=BAD, label="denied", align="edge")  # type: ignore[arg-type]
        axes.set_ylabel("loads a day" if daily else "loads an hour")
        axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(axes.xaxis.get_major_locator()))

    return _plot(draw, height=2.6, words="Loads over time")


def _group(counter: Counter[str], width: int) -> Counter[str]:
    result: Counter[str] = Counter()
    for hour, count in counter.items():
        result[hour[:width]] += count
    return result


def _unusual(good: Sequence[Findings], loads: Counter[str]) -> str:
    total = loads.total()
    by_hour = Counter(dict.fromkeys(range(24), 0))
    for hour, count in loads.items():
        by_hour[int(hour[11:13])] += count

    def draw(axes: "Axes") -> None:
        rare = [total >= ENOUGH and 0 < by_hour[h] < RARE * total for h in range(24)]
        axes.bar(range(24), [by_hour[h] for h in range(24)], color=[BAD if r else GOOD for r in rare])
        axes.set_xticks(range(0, 24, 3))
        axes.set_xlabel("hour of the day, UTC")
        axes.set_ylabel("loads")

    plot = _plot(draw, height=2.2, words="Loads by hour of the day") if total else ""
    if total < ENOUGH:
        return plot + f'<p class="note">Too few loads ({total}) to call anything unusual; {ENOUGH} are needed.</p>'
    rows: list[list[Any]] = [
        [f"{found.log}", hour.replace("T", " ") + "h", count, "hour"]
        for found in good
        for hour, count in sorted(found.loads.items())
        if by_hour[int(hour[11:13])] < RARE * total
    ]
    callers = _sum(f.callers for f in good)
    rows += [
        [found.log, caller, count, "caller"]
        for found in good
        for caller, count in found.callers.items()
        if callers[caller] < RARE * total
    ]
    more = f'<p class="note">{len(rows) - SHOWN} more.</p>' if len(rows) > SHOWN else ""
    words = (
        f'<p class="note">Loads at hours of the day, or by recipient keys, with less than {RARE:.0%} of all loads.</p>'
    )
    return plot + words + (_table(["log", "when or who", "loads", "unusual"], rows[:SHOWN]) if rows else "") + more


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    numeric = [bool(rows) and all(isinstance(row[at], int) for row in rows) for at in range(len(header))]

    def cell(tag: str, value: Any, at: int) -> str:
        kind, text = value if isinstance(value, tuple) else ("n" if numeric[at] else "", value)
        return f"<{tag}{f' class={kind}' if kind else ''}>{html.escape(str(text))}</{tag}>"

    lines = [[cell("th", name, at) for at, name in enumerate(header)]]
    lines += [[cell("td", value, at) for at, value in enumerate(row)] for row in rows]
    return "<table>" + "".join(f"<tr>{''.join(line)}</tr>" for line in lines) + "</table>"


def _plot(draw: Any, *, height: float, words: str) -> str:
    """One drawing as inline SVG."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise ModelVaultError("the report draws with matplotlib: pip install 'modelvault[plots]'") from None
    settings: Any = {"svg.hashsalt": "modelvault", "svg.fonttype": "none", "font.size": 9, "text.parse_math": False}
    with rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that the font lacks is drawn by the reader's font
        figure = Figure(figsize=(9, height), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK)
        draw(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    return f'<figure role="img" aria-label="{html.escape(words)}">{svg[svg.index("<svg") :]}</figure>'


def make_report(findings: Sequence[Findings]) -> str:
    """The page as of now."""
    return render(findings, now=datetime.now(UTC))
