"""modelvault audit"""

from pathlib import Path

import click

from modelvault.audit import read_records, verify_log
from modelvault.audit.lines import Record
from modelvault.cli.common import FILE, json_option, print_fields, print_json, print_table
from modelvault.defaults import DEFAULT, audit_path
from modelvault.keys import store

_LOG = click.argument("log", type=FILE, required=False)
_KEY = click.option("--key", default=DEFAULT, metavar="KEY", help="Host's public key: name or path. Default: default.")


@click.group("audit")
def command() -> None:
    """Show or verify an audit log (default: $MODELVAULT_HOME/audit/audit.log)."""


@command.command(epilog="Example: modelvault audit verify audit.log --key host.pub; exit statuses: docs/CLI.md")
@_LOG
@_KEY
@json_option
def verify(log: Path | None, key: str, as_json: bool) -> None:
    """Check every line of LOG against the host's signed heads. Each kind of damage has its own exit status."""
    report = verify_log(log or audit_path(), store.load_host_public(key))
    if as_json:
        print_json(report.to_dict())
    else:
        print_fields(list(report.to_dict().items()))


@command.command(epilog="Example: modelvault audit show --event load.denied")
@_LOG
@_KEY
@click.option("--event", help="Only records of this event.")
@json_option
def show(log: Path | None, key: str, event: str | None, as_json: bool) -> None:
    """Print the records of LOG, once it is verified."""
    records = [r for r in read_records(log or audit_path(), store.load_host_public(key)) if event in (None, r.event)]
    if as_json:
        print_json([r.to_dict() for r in records])
    else:
        print_table(["seq", "time", "event", "what"], [(r.seq, r.time[:19] + "Z", r.event, _what(r)) for r in records])


def _what(record: Record) -> str:
    model = record.fields.get("model")
    name = f"{model.get('name')} {model.get('version')}" if isinstance(model, dict) else ""
    extra = record.fields.get("reason") or (f"{record.fields['runs']} runs" if "runs" in record.fields else "")
    return f"{name} {extra}".strip()
