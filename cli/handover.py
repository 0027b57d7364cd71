"""modelvault handover"""

from pathlib import Path

import click

from modelvault import _files
from modelvault.cli.common import FILE, ask_passphrase, json_option, passphrase_option, print_fields, print_json
from modelvault.errors import FileError
from modelvault.issuing import hand_over
from modelvault.keys import store


@click.command(
    "handover",
    epilog="Example: modelvault handover acme --to acme-2027.pub --sign acme-2026 --sign acme-2027",
)
@click.argument("publisher")
@click.option("--to", "keys", multiple=True, required=True, metavar="KEY", help="A public key from now on. Repeatable.")
@click.option("--sign", "signers", multiple=True, required=True, metavar="KEY", help="Old and new keys. Repeatable.")
@click.option("--number", default=1, show_default=True, help="1 for the first, then one more each time.")
@click.option("--threshold", default=1, show_default=True, help="How many of the new keys must sign from now on.")
@click.option("-o", "--output", type=FILE, help="Default: PUBLISHER.NUMBER.handover.")
@passphrase_option
@json_option
def command(
    publisher: str,
    keys: tuple[str, ...],
    signers: tuple[str, ...],
    number: int,
    threshold: int,
    output: Path | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Replace the keys of PUBLISHER by those of --to: hosts that trusted the old ones follow.

    As many old keys as were needed so far must sign, and as many new ones as are needed from now on; a key that is at
    hand elsewhere adds its signature with "modelvault sign". List an old key in --to to keep it for a while: what only
    keys left out have signed, models and grants, no longer loads.
    """
    path = output or Path(f"{publisher}.{number}.handover")
    if path.exists():
        raise FileError(f"{path}: exists already")
    ask = ask_passphrase(passphrase_file)
    public = [store.load_publisher_public(key) for key in keys]
    private = [store.load_publisher(key, ask) for key in signers]
    _files.write_bytes(path, hand_over(publisher, number, public, threshold=threshold, signers=private))
    facts = {
        "publisher": publisher,
        "number": number,
        "threshold": threshold,
        "keys": [key.fingerprint for key in public],
        "signed by": [key.public.fingerprint for key in private],
        "written": str(path),
    }
    if as_json:
        print_json(facts)
    else:
        print_fields(list(facts.items()))
