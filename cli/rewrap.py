"""modelvault rewrap"""

from pathlib import Path

import click

from modelvault.cli.common import FILE, ask_passphrase, json_option, passphrase_option, print_json, print_table
from modelvault.cli.fingerprints import load_issuer
from modelvault.defaults import DEFAULT
from modelvault.errors import FileError
from modelvault.granting import rewrap
from modelvault.keys import store


@click.command("rewrap", epilog="Example: modelvault rewrap models/ --from bank-2026.pub --to bank-2027.pub")
@click.argument("place", type=FILE)
@click.option("--from", "old", required=True, metavar="KEY", help="Old public key: name, path or SHA256: fingerprint.")
@click.option("--to", "new", required=True, metavar="KEY", help="New public key: name or path.")
@click.option("--sign", "signer", default=DEFAULT, metavar="KEY", help="A key that signed the files.")
@click.option("--own", metavar="KEY", help="The publisher's own recipient key. Default: NAME.own.")
@click.option("--owner", metavar="KEY", help="The owner's secret that the files' fingerprints are drawn from.")
@click.option("--registry", type=FILE, help="The owner's registry. Default: under $MODELVAULT_HOME/registries.")
@passphrase_option
@json_option
def command(
    place: Path,
    old: str,
    new: str,
    signer: str,
    own: str | None,
    owner: str | None,
    registry: Path | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Move the embedded grants of a recipient's old key to its new one, terms kept, in PLACE: a file or a folder.

    Files without a grant for the old key stay as they are. Copies elsewhere still hold the old grants.
    """
    files = sorted(place.rglob("*.mvlt")) if place.is_dir() else [place]
    if not files:
        raise FileError(f"{place}: holds no .mvlt file")
    before = old if old.startswith("SHA256:") else store.load_recipient_public(old).fingerprint
    after = store.load_recipient_public(new)
    ask = ask_passphrase(passphrase_file)
    key, mine = store.load_publisher(signer, ask), store.load_recipient(own or store.own_of(signer, ".key"), ask)
    issuer = load_issuer(owner, registry, ask) if owner else None
    rows = [(rewrap(file, before, after, own=mine, signer=key, owner=issuer), str(file)) for file in files]
    if as_json:
        print_json({"from": before, "to": after.fingerprint, "moved": {file: count for count, file in rows}})
    else:
        print_table(["moved", "file"], rows)
