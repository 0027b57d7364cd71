"""Many recipients at once: a folder of public keys, or a CSV file that names them with their licences."""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path

from modelvault import _files
from modelvault.errors import FileError, FormatError
from modelvault.granting import Order
from modelvault.keys import RecipientPublic, store
from modelvault.manifest import PURPOSES
from modelvault.policy import Terms, read_terms

MAX_CSV = 16 * 2**20
MAX_RECIPIENTS = 100_000
COLUMNS = ("name", "key", "licence", "purpose")


def read_orders(source: str | os.PathLike[str], licence: Terms | None = None, purpose: str = "run") -> dict[str, Order]:
    """Orders by name, in the source's order. ``licence`` and ``purpose`` hold where a row has none of its own.

    A folder gives one order for each of its ``NAME.pub``; a CSV file has a heading with ``name`` and ``key``, and may
    have ``licence`` and ``purpose``; paths in it are relative to its folder. Raises FormatError, FileError.
    """
    path = Path(source)
    rows = _folder_rows(path) if path.is_dir() else _csv_rows(path)
    orders: dict[str, Order] = {}
    for where, row in rows:
        name = store.check_key_name(row["name"])
        if name in orders:
            raise FormatError(f"{where}: name {name!r} appears twice")
        if len(orders) == MAX_RECIPIENTS:
            raise FormatError(f"{path}: more than {MAX_RECIPIENTS} recipients")
        orders[name] = _order(where, row, path if path.is_dir() else path.parent, licence, purpose)
    if not orders:
        raise FormatError(f"{path}: names no recipient")
    return orders


def _order(where: str, row: dict[str, str], folder: Path, licence: Terms | None, purpose: str) -> Order:
    key = folder / row["key"]
    wanted = row.get("purpose") or purpose
    if wanted not in PURPOSES:
        raise FormatError(f"{where}: purpose: expected one of {', '.join(PURPOSES)}, got {wanted[:40]!r}")
    return Order(
        recipient=RecipientPublic.from_pem(_files.read_bytes(key, limit=store.MAX_KEY_FILE), str(key)),
        licence=read_terms(folder / row["licence"]) if row.get("licence") else licence,
        purpose=wanted,
        label=row["name"],
    )


def _folder_rows(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    for path in sorted(folder.glob("*.pub")):
        yield str(path), {"name": path.name.removesuffix(".pub"), "key": path.name}


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        text = _files.read_bytes(path, limit=MAX_CSV).decode("utf-8-sig")
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        heading = rows.fieldnames or ()
        if unknown := set(heading) - set(COLUMNS):
            raise FormatError(f"{path}: unknown column {sorted(unknown)[0][:80]!r}, expected {', '.join(COLUMNS)}")
        if missing := {"name", "key"} - set(heading):
            raise FormatError(f"{path}: column {sorted(missing)[0]!r} is missing")
        for row in rows:
            where = f"{path}: line {rows.line_num}"
            if None in row or None in row.values():
                raise FormatError(f"{where}: expected {len(heading)} columns")
            yield where, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{path}: not a CSV file: {str(error).splitlines()[0][:80].lower()}") from None


def write_grants(folder: str | os.PathLike[str], grants: Iterator[tuple[str, bytes]]) -> int:
    """Write ``NAME.grant`` files into a new folder, which appears when all of them are on disk; returns how many.

    Raises FileError, and what making the grants raises; then there is no folder.
    """
    target = Path(folder)
    if target.exists():
        raise FileError(f"{target}: exists already")
    count = 0
    with _files.atomic_folder(target) as temporary:
        for name, grant in grants:
            _files.write_new(temporary / f"{name}.grant", grant)
            count += 1
    return count
