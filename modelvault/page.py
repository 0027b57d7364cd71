"""One self-contained HTML page: readable on a screen and on paper, without scripts or anything from elsewhere."""

import hashlib
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from modelvault import _files

STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #f4f5f7; color: #1d2733; font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 52rem; margin: 2rem auto; padding: 2rem 2.5rem; background: #fff; border: 1px solid #d9dee5; }
h1 { font-size: 1.6rem; margin: 0 0 1rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
section { padding: .75rem 1.25rem; border-left: 6px solid; font-size: 1.1rem; }
section.claim { border-color: #b3261e; background: #fbeeed; }
section.none, section.same { border-color: #5b6b7d; background: #eef1f4; }
code, td { overflow-wrap: anywhere; }
figure { margin: 1rem 0; }
figure svg { width: 100%; height: auto; }
figcaption { font-size: .85rem; color: #4a5a6b; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid #e4e8ed; }
td.n, th.n { text-align: right; white-space: nowrap; }
table.facts th { width: 15rem; font-weight: 600; }
summary { cursor: pointer; margin: 1rem 0; }
@media print { body { background: #fff; } main { border: 0; margin: 0; padding: 0; } details > * { display: block; } }
""".strip()

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def write(output: Path, title: str, sections: Iterable[str]) -> None:
    """Write the page, atomically; ``sections`` are HTML, ``title`` is text. Raises FileError."""
    text = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )
    _files.write_bytes(output, text.encode(errors="replace"))


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """A table of names and values."""
    cells = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in rows)
    return f'<table class="facts">{cells}</table>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """A table with a heading for each column; the last ``numbers`` columns are numbers, which are not broken."""
    kinds = [""] * (len(header) - numbers) + [' class="n"'] * numbers
    head = "".join(f"<th{k}>{html.escape(h)}</th>" for k, h in zip(kinds, header, strict=True))
    body = ("".join(f"<td{k}>{html.escape(v)}</td>" for k, v in zip(kinds, row, strict=True)) for row in rows)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{cells}</tr>' for cells in body)}</table>"


def power(log10: float) -> str:
    """A probability as HTML, from its logarithm."""
    return f"{10**log10:.3g}" if log10 > -3 else f"10<sup>{log10:.1f}</sup>".replace("-", "&minus;")


def sha256(path: Path) -> str:
    """A file's digest, in hex. Raises FileError."""
    with _files.failures(path), open(_files.open_regular(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
