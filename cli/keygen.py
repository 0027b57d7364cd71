"""modelvault keygen"""

from pathlib import Path

import click

from modelvault.cli.common import FILE, ask_passphrase, json_option, passphrase_option, print_fields, print_json
from modelvault.defaults import DEFAULT, trust_path
from modelvault.errors import FormatError
from modelvault.keys import (
    PUBLISHER_ALGORITHMS,
    RECIPIENT_ALGORITHMS,
    HostKey,
    OwnerSecret,
    PublisherKey,
    RecipientKey,
    store,
)
from modelvault.trust import TrustPolicy, add_publisher

_ALGORITHMS = {"publisher": PUBLISHER_ALGORITHMS, "recipient": RECIPIENT_ALGORITHMS, "owner": (), "host": ("ed25519",)}
_UNPROTECTED = "warning: the private key is not encrypted: whoever reads its file has it"


@click.command(
    "keygen",
    epilog="Examples: modelvault keygen publisher   |   modelvault keygen recipient bank --algorithm x25519",
)
@click.argument("role", type=click.Choice(store.ROLES))
@click.argument("name", default=DEFAULT)
@click.option("--algorithm", help="Default: hybrid with a post-quantum half (publisher, recipient).")
@click.option("-o", "--output", "folder", type=FILE, metavar="FOLDER", help="Default: $MODELVAULT_HOME/keys/ROLE.")
@click.option("--no-passphrase", is_flag=True, help="Store the private key in the clear: its file is the key.")
@click.option("--no-trust", is_flag=True, help="Do not add a new publisher to this host's trust policy.")
@passphrase_option
@json_option
def command(
    role: str,
    name: str,
    algorithm: str | None,
    folder: Path | None,
    no_passphrase: bool,
    no_trust: bool,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Make a key pair (owner: a secret) for ROLE, named NAME (default: "default").

    publisher signs models and grants; a pair NAME.own comes with it, so that the publisher can grant its models later.
    recipient opens models. owner marks models with a watermark. host signs this machine's audit log.
    """
    if algorithm is not None and algorithm not in _ALGORITHMS[role]:
        raise click.BadParameter(f"expected one of: {', '.join(_ALGORITHMS[role]) or 'none'}", param_hint="--algorithm")
    where = folder or store.folder(role)
    store.check_free(where, name)
    secret = None if no_passphrase else ask_passphrase(passphrase_file, confirm=True)()
    if secret == b"":
        raise FormatError("the passphrase is empty; --no-passphrase stores the key in the clear")
    facts: dict[str, object] = {"role": role, "name": name}
    if role == "owner":
        owner = OwnerSecret.generate()
        path = store.write_pair(where, name, owner.to_pem(secret), None)
        facts |= {"fingerprint": owner.fingerprint, "private": str(path)}
    else:
        key = _generate(role, algorithm)
        pairs: dict[str, tuple[bytes, bytes | None]] = {name: (key.to_pem(secret), key.public.to_pem())}
        if role == "publisher":
            own = RecipientKey.generate()
            pairs[f"{name}.own"] = (own.to_pem(secret), own.public.to_pem())
        path = store.write_pairs(where, pairs)[0]
        facts |= {"algorithm": key.public.algorithm, "fingerprint": key.public.fingerprint}
        facts |= {"private": str(path), "public": str(path.with_suffix(".pub"))}
    if role == "publisher" and folder is None and not no_trust:
        facts["trusted"] = _trust(name, where / f"{name}.pub")
    if as_json:
        print_json(facts)
    else:
        print_fields([(key, value) for key, value in facts.items()])
    if no_passphrase:
        click.echo(_UNPROTECTED, err=True)


def _generate(role: str, algorithm: str | None) -> PublisherKey | RecipientKey | HostKey:
    if role == "host":
        return HostKey.generate()
    kind = PublisherKey if role == "publisher" else RecipientKey
    return kind.generate(algorithm) if algorithm else kind.generate()


def _trust(name: str, public: Path) -> str:
    """Let this host trust the key that was made on it, for all models; an existing entry of the name is left alone."""
    path = trust_path()
    if path.exists() and name in {p.name for p in TrustPolicy.read(path).publishers}:
        return f"no: {path} has a publisher {name} already"
    add_publisher(path, name, [public], models=["*"])
    return f"models '*' in {path}"
