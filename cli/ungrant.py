"""modelvault ungrant"""

from pathlib import Path

import click

from modelvault.cli.common import FILE, json_option, print_json
from modelvault.granting import ungrant
from modelvault.keys import store


@click.command("ungrant", epilog="Example: modelvault ungrant fraud.mvlt bank.pub")
@click.argument("file", type=FILE)
@click.argument("recipient")
@json_option
def command(file: Path, recipient: str, as_json: bool) -> None:
    """Remove the embedded grants of RECIPIENT (a key's name, path or SHA256: fingerprint) from FILE.

    This does not take back what was given: a recipient that has decrypted the model once may have kept it, and
    older copies of FILE still hold the grant.
    """
    fingerprint = recipient if recipient.startswith("SHA256:") else store.load_recipient_public(recipient).fingerprint
    removed = ungrant(file, fingerprint)
    if as_json:
        print_json({"file": str(file), "recipient": fingerprint, "removed": removed})
        return
    click.echo(f"removed {removed} grant(s) of {fingerprint} from {file}")
    click.echo("Whoever decrypted the model before may keep it, and old copies of the file still hold the grant.")
