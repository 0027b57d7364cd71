"""modelvault audit rotate"""

from pathlib import Path

import click

from modelvault.audit import AuditLog, LogKey
from modelvault.cli.common import FILE, ask_passphrase, json_option, passphrase_option, print_fields, print_json
from modelvault.defaults import DEFAULT, audit_path
from modelvault.errors import FileError

LOG = click.argument("log", type=FILE, required=False)
PRIVATE = click.option("--key", default=DEFAULT, metavar="KEY", help="Host's private key: name or path.")


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
    path = log or audit_path()
    if not path.exists():
        raise FileError(f"{path}: there is no log")
    writer = AuditLog(path, LogKey.read(key, ask_passphrase(passphrase_file)))
    record = writer.rotate()
    facts = {"log": str(writer.path), "ended": record.epoch, "records": record.seq + 1, "key": record.fields["next"]}
    if as_json:
        print_json(facts)
    else:
        print_fields(list(facts.items()))
