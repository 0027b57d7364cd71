"""modelvault audit rotate, prune, redact, export, ship"""

from pathlib import Path
from typing import Any

import click

from modelvault.audit import AuditLog, LogKey, verify_log
from modelvault.audit.lines import Record
from modelvault.audit.segments import closed_segments
from modelvault.cli.audit_show import KEY, LOG, parse_since
from modelvault.cli.common import FILE, ask_passphrase, json_option, passphrase_option, print_fields, print_json
from modelvault.defaults import DEFAULT, audit_path
from modelvault.errors import FileError
from modelvault.keys import HostPublic, store

PRIVATE = click.option("--key", default=DEFAULT, metavar="KEY", help="Host's private key: name or path.")


def _open(log: Path | None, key: str, passphrase_file: Path | None) -> tuple[AuditLog, HostPublic]:
    """A log that is there, to be written; and its first key."""
    path = log or audit_path()
    if not path.exists() and not closed_segments(path):
        raise FileError(f"{path}: there is no log")
    keys = LogKey.read(key, ask_passphrase(passphrase_file))
    return AuditLog(path, keys), keys.first


def _print(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(facts)
    else:
        print_fields(list(facts.items()))


@click.command(epilog="Example: modelvault audit rotate; [audit] rotate_days in the trust policy does it by itself")
@LOG
@PRIVATE
@passphrase_option
@json_option
def rotate(log: Path | None, key: str, passphrase_file: Path | None, as_json: bool) -> None:
    """End the log's epoch: sign it, erase the key that did, go on with a new key in a new file.

    Whoever takes over the host afterwards can no longer change what was logged before. The public key that auditors
    hold stays the first one.
    """
    writer, _ = _open(log, key, passphrase_file)
    record = writer.rotate()
    facts = {"log": str(writer.path), "ended": record.epoch, "records": record.seq + 1, "key": record.fields["next"]}
    _print(facts, as_json)


@click.command(epilog="Example: modelvault audit prune --before 365d")
@LOG
@click.option("--before", required=True, metavar="TIME", help="A date, an RFC 3339 time, or 12h, 365d ago.")
@PRIVATE
@passphrase_option
@json_option
def prune(log: Path | None, before: str, key: str, passphrase_file: Path | None, as_json: bool) -> None:
    """Give up the records of epochs that ended before TIME: their hashes stay, so the log still verifies.

    A record in the log says up to where pruning was allowed; anything missing beyond that is damage.
    """
    from modelvault import ledger
    from modelvault.audit import pruning

    writer, first = _open(log, key, passphrase_file)
    ledger.keep(writer)  # what loads were counted by the records that may go
    minimum, paths = pruning.prune(writer, first, parse_since(before, "--before"))
    facts = {"log": str(writer.path), "first_record_kept": minimum, "segments_pruned": [p.name for p in paths]}
    _print(facts, as_json)


@click.command(epilog="Example: modelvault audit redact 17 18 --field recipient")
@click.argument("seq", nargs=-1, required=True, type=click.IntRange(min=0))
@click.option("--field", "fields", multiple=True, help="Only this field. Repeatable. Default: all concealed ones.")
@click.option("--log", type=FILE, help="Default: $MODELVAULT_HOME/audit/audit.log.")
@PRIVATE
@passphrase_option
@json_option
def redact(
    seq: tuple[int, ...],
    fields: tuple[str, ...],
    log: Path | None,
    key: str,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Delete for good what records SEQ say in their concealed fields; the log still verifies.

    Which fields are concealed is set by [audit] conceal in the trust policy, before they are written. A record in the
    log says what was redacted.
    """
    from modelvault.audit import openings

    writer, first = _open(log, key, passphrase_file)
    marks: set[str] = set()
    names: set[str] = set()

    def visit(record: Record) -> None:
        for name, mark in openings.marks(record).items():
            if record.seq in seq and (not fields or name in fields):
                marks.add(mark)
                names.add(name)

    verify_log(writer.path, first, visit=visit)
    writer.append("redacted", records=sorted(set(seq)), names=sorted(names))
    count = openings.forget(writer.path, marks.__contains__)
    _print({"log": str(writer.path), "fields": sorted(names), "values_deleted": count}, as_json)


@click.command(epilog="Example: modelvault audit export --tiles /var/www/host7-audit")
@LOG
@KEY
@click.option("--tiles", type=FILE, required=True, metavar="FOLDER", help="Write C2SP tlog-tiles there.")
@json_option
def export(log: Path | None, key: str, tiles: Path, as_json: bool) -> None:
    """Publish LOG as static files, for monitors that read C2SP tlog-tiles. What the folder has already is kept."""
    from modelvault.audit.tiles import export_tiles

    report = export_tiles(log or audit_path(), store.load_host_public(key), tiles)
    _print({"folder": str(tiles), "origin": report.origin, "records": report.size}, as_json)


@click.command(epilog="Example: modelvault audit ship s3://audit-archive/host7")
@click.argument("target")
@LOG
@KEY
@json_option
def ship(target: str, log: Path | None, key: str, as_json: bool) -> None:
    """Copy to TARGET (a folder, or a URL that fsspec knows) what it does not have of LOG.

    LOG must extend the newest checkpoint at TARGET, or nothing is copied. Closed segments and checkpoints are only
    added, never replaced. Needs pip install 'modelvault[ship]'.
    """
    from modelvault.audit import shipping

    path = log or audit_path()
    copied = shipping.ship(path, store.load_host_public(key), target)
    _print({"log": str(path), "target": target, "copied": copied}, as_json)
