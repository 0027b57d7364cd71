"""modelvault pubkey"""

from pathlib import Path

import click

from modelvault import _files
from modelvault.cli.common import FILE, ask_passphrase, json_option, passphrase_option, print_fields, print_json
from modelvault.errors import FileError, FormatError
from modelvault.keys import HostPublic, PublisherPublic, RecipientPublic, store

_ROLES = {
    "publisher": store.load_publisher_public,
    "recipient": store.load_recipient_public,
    "host": store.load_host_public,
}


@click.command("pubkey", epilog="Example: modelvault pubkey publisher 'pkcs11:token=hsm;object=release' -o release.pub")
@click.argument("role", type=click.Choice(list(_ROLES)))
@click.argument("key")
@click.option("-o", "--output", type=FILE, help="Write the PEM text there instead of printing it.")
@passphrase_option
@json_option
def command(role: str, key: str, output: Path | None, passphrase_file: Path | None, as_json: bool) -> None:
    """Print the public half of KEY (a name, a path, or a URI) as PEM: what "trust add" and "--to" take elsewhere."""
    if output is not None and output.exists():
        raise FileError(f"{output}: exists already")
    public = _ROLES[role](key, ask_passphrase(passphrase_file))
    if not isinstance(public, PublisherPublic | RecipientPublic | HostPublic):
        raise FormatError(f"{key}: has no public half; name it by this URI wherever a recipient is asked for")
    pem = public.to_pem().decode()
    facts = {"algorithm": public.algorithm, "fingerprint": public.fingerprint}
    if output is not None:
        _files.write_bytes(output, pem.encode())
        facts["public"] = str(output)
    if as_json:
        print_json(facts | {"pem": pem})
    elif output is not None:
        print_fields(list(facts.items()))
    else:
        click.echo(pem, nl=False)
