"""modelvault audit verify, show"""

import os
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from modelvault import _files
from modelvault._codec import NUMBER, format_time, parse_time
from modelvault.audit import AuditReport, openings, verify_log
from modelvault.audit.cosigned import check_cosigned
from modelvault.audit.lines import Record
from modelvault.audit.segments import closed_segments
from modelvault.cli.common import FILE, json_option, print_fields, print_json, print_table, progress_bar
from modelvault.cosignature import VerifierKey
from modelvault.defaults import DEFAULT, audit_path
from modelvault.errors import FormatError
from modelvault.keys import HostPublic, store

MAX_CHECKPOINT = 64 * 2**10
MAX_INTERVAL = 86_400
LOG = click.argument("log", type=FILE, required=False)
KEY = click.option("--key", default=DEFAULT, metavar="KEY", help="Host's public key: name or path. Default: default.")


def read_text(path: Path) -> str:
    """A small text file."""
    try:
        return _files.read_bytes(path, limit=MAX_CHECKPOINT).decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"{path}: not UTF-8") from None


def read_verifier(reference: str) -> VerifierKey:
    """A verifier key itself, or the file that holds it."""
    text = read_text(Path(reference)) if os.path.exists(reference) else reference  # noqa: PTH110
    return VerifierKey.from_text(text, "verifier key")


@click.command(epilog="Example: modelvault audit verify audit.log --key host.pub; exit statuses: docs/CLI.md")
@LOG
@KEY
@click.option("--against", type=FILE, metavar="FILE", help="A checkpoint kept elsewhere, that LOG must extend.")
@click.option(
    "--cosigned-by", "witnesses", multiple=True, metavar="VKEY", help="A witness that FILE must be cosigned by, too."
)
@click.option("--follow", is_flag=True, help="Stay, and verify again whenever the log has grown.")
@click.option("--interval", default=2.0, show_default=True, help="Seconds between looks with --follow.")
@json_option
def verify(
    log: Path | None,
    key: str,
    against: Path | None,
    witnesses: tuple[str, ...],
    follow: bool,
    interval: float,
    as_json: bool,
) -> None:
    """Check every line of LOG against the host's signed heads. Each kind of damage has its own exit status.

    That the end of a log was cut off can only be seen with --against, a checkpoint that "audit checkpoint" printed
    before and that was kept elsewhere.
    """
    if not 0 < interval <= MAX_INTERVAL:
        raise click.BadParameter(f"expected seconds up to {MAX_INTERVAL}, got {interval}", param_hint="--interval")
    if witnesses and not against:
        raise click.UsageError("--cosigned-by: needs --against, the checkpoint that was cosigned")
    path, public = log or audit_path(), store.load_host_public(key)
    kept = read_text(against) if against else None
    cosigned = _cosigned(kept or "", str(against), map(read_verifier, witnesses))
    report = _verify(path, public, kept)
    _print(report, as_json, {"cosigned": cosigned} if cosigned else {})
    while follow:
        time.sleep(interval)
        grown = _verify(path, public, report.head)
        if grown.size != report.size:
            report = grown
            _print(report, as_json, {})
            sys.stdout.flush()


def _verify(path: Path, key: HostPublic, against: str | None) -> AuditReport:
    size = sum(file.stat().st_size for file in [*closed_segments(path), path] if file.is_file())
    with progress_bar("Verifying", size) as progress:
        return verify_log(path, key, against=against, progress=progress)


def _cosigned(note: str, source: str, witnesses: Iterable[VerifierKey]) -> dict[str, str]:
    """When each witness cosigned the note."""
    return {w.name: format_time(check_cosigned(note, w, source)) for w in witnesses}


def _print(report: AuditReport, as_json: bool, more: dict[str, dict[str, str]]) -> None:
    if as_json:
        print_json({**report.to_dict(), **more})
    else:
        named = [(f"{what} by {name}", value) for what, part in more.items() for name, value in part.items()]
        print_fields([*report.to_dict().items(), *named])


@click.command(epilog="Example: modelvault audit show --event load.denied --since 2d")
@LOG
@KEY
@click.option("--event", help="Only records of this event.")
@click.option("--model", help="Only records of this model.")
@click.option("--outcome", type=click.Choice(["done", "denied"]), help="Only loads that were done, or denied.")
@click.option("--since", metavar="TIME", help="Only later records: 2026-01-31, an RFC 3339 time, or 90m, 12h, 7d ago.")
@json_option
def show(
    log: Path | None,
    key: str,
    event: str | None,
    model: str | None,
    outcome: str | None,
    since: str | None,
    as_json: bool,
) -> None:
    """Print the records of LOG, once it is verified."""
    wanted = _filter(event, model, outcome, parse_since(since, "--since") if since is not None else None)
    records: list[Record] = []
    verify_log(
        log or audit_path(),
        store.load_host_public(key),
        visit=lambda record: records.append(record) if wanted(record) else None,
    )
    opened = openings.read_openings(log or audit_path())
    records = [openings.reveal(record, opened) for record in records]
    if as_json:
        print_json([r.to_dict() for r in records])
    else:
        print_table(["seq", "time", "event", "what"], [(r.seq, r.time[:19] + "Z", r.event, _what(r)) for r in records])


def _filter(
    event: str | None, model: str | None, outcome: str | None, since: datetime | None
) -> Callable[[Record], bool]:
    def wanted(record: Record) -> bool:
        return (
            event in (None, record.event)
            and model in (None, _model(record)[0])
            and (outcome is None or record.event == f"load.{outcome}")
            and (since is None or parse_time(record.time, "time") >= since)
        )

    return wanted


def parse_since(text: str, option: str) -> datetime:
    """A date, a time, or an age before now."""
    units = {"m": "minutes", "h": "hours", "d": "days"}
    try:
        if NUMBER.fullmatch(text[:-1]) and text[-1] in units:
            return datetime.now(UTC) - timedelta(**{units[text[-1]]: int(text[:-1])})
        return parse_time(text if len(text) > 10 else f"{text}T00:00:00Z", option)
    except (FormatError, OverflowError):  # before the year 1
        raise click.BadParameter("expected a date, a time, or an age as 90m, 12h, 7d", param_hint=option) from None


def _model(record: Record) -> tuple[str, str]:
    model = record.fields.get("model")
    return (str(model.get("name")), str(model.get("version"))) if isinstance(model, dict) else ("", "")


def _what(record: Record) -> str:
    extra = record.fields.get("reason") or (f"{record.fields['runs']} runs" if "runs" in record.fields else "")
    return " ".join([*_model(record), str(extra)]).strip()
