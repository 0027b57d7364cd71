"""modelvault sign-model"""

from pathlib import Path

import click

from modelvault import _files
from modelvault.cli.common import FILE, ask_passphrase, json_option, passphrase_option, print_fields, print_json
from modelvault.errors import FileError
from modelvault.keys import store
from modelvault.oms import sign_model


@click.command("sign-model", epilog="Example: modelvault sign-model bert/ --key release --signature bert.sig")
@click.argument("folder", type=FILE)
@click.option("--key", "keys", multiple=True, required=True, metavar="KEY", help="ECDSA key first. Repeatable.")
@click.option("--signature", type=FILE, help="Where to write it. Default: FOLDER.sig.")
@click.option("--force", is_flag=True, help="Replace an existing signature.")
@passphrase_option
@json_option
def command(
    folder: Path,
    keys: tuple[str, ...],
    signature: Path | None,
    force: bool,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Sign the plain model in FOLDER as OpenSSF Model Signing does: model_signing and verify-model can check it.

    The first KEY must be an ecdsa-p256, -p384 or -p521 publisher key (see modelvault keygen --algorithm).
    """
    target = signature or _files.beside(_files.real(folder), ".sig")
    if target.exists() and not force:
        raise FileError(f"{target}: exists already")
    ask = ask_passphrase(passphrase_file)
    signers = [store.load_publisher(key, ask) for key in keys]
    manifest = sign_model(folder, target, signers)
    facts = {
        "signature": str(target),
        "model": manifest.name,
        "digest": manifest.digest.hex(),
        "files": len(manifest.resources),
        "signed by": [s.public.fingerprint for s in signers],
    }
    if as_json:
        print_json(facts)
    else:
        print_fields(list(facts.items()))
