"""modelvault sbom"""

import hashlib
from pathlib import Path

import click

from modelvault import _files, remote
from modelvault.cli.common import FILE, PLACE, ask_passphrase, passphrase_option
from modelvault.defaults import trust_policy
from modelvault.errors import FileError
from modelvault.sbom import bill_of_materials
from modelvault.verification import verify


@click.command("sbom", epilog="Example: modelvault sbom fraud.mvlt -o fraud.cdx.json")
@click.argument("file", type=PLACE)
@click.option("-o", "--output", type=FILE, help="Write it there instead of printing it.")
@click.option("--identity", metavar="KEY", help="Open FILE with this key (an audited load) and list its assets too.")
@click.option("--grant", type=PLACE, help="With --identity: a grant kept beside the file.")
@click.option(
    "--trust", type=PLACE, help="Trust policy: path, or URL#sha256=HEX. Default: $MODELVAULT_HOME/trust.toml."
)
@click.option("--audit", type=FILE, help="With --identity: audit log. Default: $MODELVAULT_HOME/audit/audit.log.")
@passphrase_option
def command(
    file: str | Path,
    output: Path | None,
    identity: str | None,
    grant: str | Path | None,
    trust: str | Path | None,
    audit: Path | None,
    passphrase_file: Path | None,
) -> None:
    """Print a CycloneDX bill of materials (JSON) of a sealed FILE, once it is verified.

    It holds what anybody may read: name, version, digests, publisher, signers, policy, watermark commitment.
    """
    if output is not None and output.exists():
        raise FileError(f"{output}: exists already")
    policy = trust_policy(trust)
    model = verify(file, policy)
    assets = None
    if identity is not None:
        from modelvault.loader import load

        settings = {"identity": identity, "grant": grant, "audit": audit, "passphrase": ask_passphrase(passphrase_file)}
        with load(file, trust=policy, **settings) as session:
            assets = {name: hashlib.sha256(session.asset(name)).digest() for name in session.assets}
    copy = remote.fetch(file) if isinstance(file, str) else file
    with _files.failures(copy), copy.open("rb") as sealed:
        digest = hashlib.file_digest(sealed, "sha256").digest()
    text = bill_of_materials(model, file_sha256=digest, assets=assets)
    if output is None:
        click.echo(text.decode(), nl=False)
    else:
        _files.write_bytes(output, text)
