"""modelvault grant"""

from pathlib import Path

import click

from modelvault.cli.common import FILE, ask_passphrase, json_option, passphrase_option, print_fields, print_json
from modelvault.defaults import DEFAULT
from modelvault.errors import FileError
from modelvault.granting import embed, grant, write_grant
from modelvault.keys import store
from modelvault.manifest import PURPOSES
from modelvault.policy import read_terms
from modelvault.sealedfile import UnverifiedGrant


@click.command(
    "grant",
    epilog="Examples: modelvault grant fraud.mvlt --to bank.pub -o bank.grant   |   "
    "modelvault grant fraud.mvlt --to bank.pub --embed --licence q4.toml",
)
@click.argument("file", type=FILE)
@click.option("--to", "recipient", required=True, metavar="KEY", help="Recipient's public key: name or path.")
@click.option("--sign", "signer", default=DEFAULT, metavar="KEY", help="A key that signed FILE. Default: default.")
@click.option(
    "--own", metavar="KEY", help="The publisher's own recipient key. Default: NAME.own beside the signing key."
)
@click.option("-o", "--output", type=FILE, help="Write the grant beside the file.")
@click.option("--embed", "inside", is_flag=True, help="Write the grant into FILE; its payload stays as it is.")
@click.option("--licence", type=FILE, help="TOML: not_before, not_after, providers, min_loader, for this recipient.")
@click.option("--purpose", type=click.Choice(PURPOSES), default="run", show_default=True)
@passphrase_option
@json_option
def command(
    file: Path,
    recipient: str,
    signer: str,
    own: str | None,
    output: Path | None,
    inside: bool,
    licence: Path | None,
    purpose: str,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Give a recipient access to a sealed FILE: a small signed grant, beside the file or inside it."""
    if inside == (output is not None):
        raise click.UsageError("choose one: -o GRANT (beside the file) or --embed (inside it)")
    if output is not None and output.exists():
        raise FileError(f"{output}: exists already")
    ask = ask_passphrase(passphrase_file)
    data = grant(
        file,
        store.load_recipient_public(recipient, ask),
        own=store.load_recipient(own or store.own_of(signer, ".key"), ask),
        signer=store.load_publisher(signer, ask),
        licence=read_terms(licence) if licence else None,
        purpose=purpose,
    )
    if output is None:
        embed(file, data)
    else:
        write_grant(output, data)
    statement = UnverifiedGrant.from_bytes(data, "grant").statement
    facts = {
        "grant": statement.grant_id,
        "model": statement.model_name,
        "recipient": statement.recipient,
        "purpose": purpose,
        "written": str(output or file),
    }
    if as_json:
        print_json(facts)
    else:
        print_fields(list(facts.items()))
