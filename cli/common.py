"""What commands share: passphrases, JSON, tables, progress."""

import contextlib
import io
import json
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from modelvault import _files, defaults, remote
from modelvault.errors import FormatError, KeyUnavailable, printable
from modelvault.keys import store

F = TypeVar("F", bound=Callable[..., Any])
Passphrase = Callable[[], bytes]
WIDTH = 80
MAX_ARRAYS = 2**32
BAR_FROM = 64 * 2**20  # below this the work ends before a bar could be read

FILE = click.Path(path_type=Path)


class _Place(click.Path):
    """A path, or a URL as it is."""

    name = "file or url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if remote.is_url(value) else Path(value)


PLACE = _Place()


def passphrase_option(function: F) -> F:
    """``--passphrase-file``; the command receives ``passphrase_file``."""
    return click.option(
        "--passphrase-file",
        type=FILE,
        metavar="FILE",
        help="First line is the passphrase of the private keys. Also: $MODELVAULT_PASSPHRASE.",
    )(function)


def json_option(function: F) -> F:
    """``--json``; the command receives ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(function)


def ask_passphrase(file: Path | None, *, confirm: bool = False) -> Passphrase:
    """Where a passphrase comes from: the file, the environment, or a question on a terminal, in this order."""
    known: list[bytes] = []

    def ask() -> bytes:
        if not known:
            known.append(_find_passphrase(file, confirm))
        return known[0]

    return ask


def _find_passphrase(file: Path | None, confirm: bool) -> bytes:
    if file is not None:
        return store.passphrase_file(file)
    try:
        return defaults.environment_passphrase()
    except KeyUnavailable:
        if not sys.stdin.isatty():
            raise
    text: str = click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    return text.encode()


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True))


def print_fields(fields: Sequence[tuple[str, object]]) -> None:
    """Name and value, aligned; long values go on lines of their own."""
    wide = max(len(name) for name, _ in fields)
    for name, value in fields:
        lines = [str(v) for v in value] if isinstance(value, list | tuple) else [str(value)]
        for number, line in enumerate(lines or ["-"]):
            click.echo(f"{name if number == 0 else '':<{wide}}  {printable(line)}")


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as needed; the last one is cut so that a line fits 80 columns."""
    table = [[printable(str(cell)) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    left = WIDTH - sum(widths[:-1]) - 2 * (len(widths) - 1)
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True)]
        last = row[-1] if len(row[-1]) <= max(left, 12) else row[-1][: max(left, 12) - 3] + "..."
        click.echo("  ".join([*cells, last]).rstrip())


def allowed_line(rules: Sequence[str]) -> str:
    """What a sealed model's statement says of the scan."""
    return f"errors allowed by the publisher: {', '.join(rules)}" if rules else "no allowed errors on record"


def bytes_in(place: str | Path) -> int:
    """How much work a local sealed file is; nothing is known of a URL before it is asked."""
    return place.stat().st_size if isinstance(place, Path) and place.is_file() else 0


def read_arrays(path: Path) -> Any:
    """An .npz file's arrays by name, or an .npy file's one array; FormatError for anything else, pickles included."""
    import numpy as np

    data = io.BytesIO(_files.read_bytes(path, limit=MAX_ARRAYS))
    try:
        loaded = np.load(data, allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path}: not an .npy or .npz file of plain arrays ({type(error).__name__})") from None


def size(count: int) -> str:
    """Bytes for people."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


@contextlib.contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[int], None] | None]:
    """A bar on standard error when that is a terminal and the work is long enough to watch; else None."""
    if total < BAR_FROM or not sys.stderr.isatty():
        yield None
        return
    lock = threading.Lock()
    with click.progressbar(length=total, label=label, file=sys.stderr) as bar:

        def step(count: int) -> None:
            with lock:
                bar.update(count)

        yield step
