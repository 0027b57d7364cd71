"""modelvault verify-model"""

from pathlib import Path

import click

from modelvault import _files
from modelvault.cli.common import FILE, json_option, print_fields, print_json
from modelvault.keys import store
from modelvault.oms import verify_model


@click.command("verify-model", epilog="Example: modelvault verify-model bert/ --signature bert.sig --key vendor.pub")
@click.argument("folder", type=FILE)
@click.option("--signature", type=FILE, help="The signature file. Default: FOLDER.sig.")
@click.option("--key", "keys", multiple=True, required=True, metavar="KEY", help="Public key that must have signed.")
@json_option
def command(folder: Path, signature: Path | None, keys: tuple[str, ...], as_json: bool) -> None:
    """Check the plain model in FOLDER against an OpenSSF Model Signing signature: every file there, and no other.

    With several --key, each of them must have signed.
    """
    source = signature or _files.beside(_files.real(folder), ".sig")
    publics = [store.load_publisher_public(key) for key in keys]
    manifest, ignored = verify_model(folder, source, publics)
    facts = {
        "verified": str(folder),
        "model": manifest.name,
        "digest": manifest.digest.hex(),
        "files": len(manifest.resources),
        "not covered": ignored,
        "signed by": [key.fingerprint for key in publics],
    }
    if as_json:
        print_json(facts)
    else:
        print_fields(list(facts.items()))
