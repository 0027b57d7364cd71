"""modelvault grant"""

from pathlib import Path

import click

from modelvault.cli.common import FILE, PLACE, ask_passphrase, json_option, passphrase_option, print_fields, print_json
from modelvault.cli.fingerprints import load_issuer
from modelvault.defaults import DEFAULT
from modelvault.errors import FileError
from modelvault.granting import Order, embed, grant_all, write_grant
from modelvault.keys import store
from modelvault.manifest import PURPOSES
from modelvault.policy import read_terms
from modelvault.recipients import read_orders, write_grants
from modelvault.sealedfile import UnverifiedGrant


@click.command(
    "grant",
    epilog="Examples: modelvault grant fraud.mvlt --to bank.pub -o bank.grant   |   "
    "modelvault grant fraud.mvlt --to bank.pub --embed --licence q4.toml   |   "
    "modelvault grant fraud.mvlt --all customers.csv -o grants/",
)
@click.argument("file", type=PLACE)
@click.option("--to", "recipient", metavar="KEY", help="Recipient's public key: name or path.")
@click.option("--all", "source", type=FILE, help="A folder of NAME.pub, or a CSV file: name, key, licence, purpose.")
@click.option("--sign", "signer", default=DEFAULT, metavar="KEY", help="A key that signed FILE. Default: default.")
@click.option(
    "--own", metavar="KEY", help="The publisher's own recipient key. Default: NAME.own beside the signing key."
)
@click.option("-o", "--output", type=FILE, help="Write the grant beside the file; with --all a new folder.")
@click.option("--embed", "inside", is_flag=True, help="Write the grant into FILE; its payload stays as it is.")
@click.option("--licence", type=FILE, help="TOML: terms for the recipient (docs/LICENCES.md).")
@click.option("--purpose", type=click.Choice(PURPOSES), default="run", show_default=True)
@click.option("--owner", metavar="KEY", help="The owner's secret that FILE's fingerprints are drawn from.")
@click.option("--registry", type=FILE, help="The owner's registry. Default: under $MODELVAULT_HOME/registries.")
@passphrase_option
@json_option
def command(
    file: str | Path,
    recipient: str | None,
    source: Path | None,
    signer: str,
    own: str | None,
    output: Path | None,
    inside: bool,
    licence: Path | None,
    purpose: str,
    owner: str | None,
    registry: Path | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Give recipients access to a sealed FILE: small signed grants, beside the file or inside it.

    With --all, FILE is read once and its payload not at all, however many recipients there are.
    """
    if (recipient is None) == (source is None):
        raise click.UsageError("choose one: --to KEY or --all SOURCE")
    if inside == (output is not None) or (inside and source):
        raise click.UsageError("choose one: -o GRANT (beside the file) or --embed (inside it; one recipient)")
    if output is not None and output.exists():
        raise FileError(f"{output}: exists already")
    ask = ask_passphrase(passphrase_file)
    terms = read_terms(licence) if licence else None
    if source is not None:
        orders = read_orders(source, terms, purpose)
    else:
        public = store.load_recipient_public(str(recipient), ask)
        label = Path(str(recipient)).name.removesuffix(".pub")
        orders = {"": Order(recipient=public, licence=terms, purpose=purpose, label=label)}
    grants = grant_all(
        file,
        orders.values(),
        own=store.load_recipient(own or store.own_of(signer, ".key"), ask),
        signer=store.load_publisher(signer, ask),
        owner=load_issuer(owner, registry, ask) if owner else None,
    )
    if source is not None and output is not None:
        count = write_grants(output, zip(orders, grants, strict=True))
        facts: dict[str, object] = {"grants": count, "written": str(output)}
    else:
        facts = _one(next(grants), file, output)
    if as_json:
        print_json(facts)
    else:
        print_fields(list(facts.items()))


def _one(data: bytes, file: str | Path, output: Path | None) -> dict[str, object]:
    if output is None:
        embed(file, data)
    else:
        write_grant(output, data)
    statement = UnverifiedGrant.from_bytes(data, "grant").statement
    return {
        "grant": statement.grant_id,
        "model": statement.model_name,
        "recipient": statement.recipient,
        "purpose": statement.purpose,
        "written": str(output or file),
    }
