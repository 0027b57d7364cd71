"""modelvault trust"""

from pathlib import Path

import click

from modelvault import _files, remote
from modelvault.cli.common import FILE, json_option, print_json, print_table
from modelvault.defaults import trust_path
from modelvault.envelope import Envelope
from modelvault.handover import MAX_HANDOVER, Handover
from modelvault.keys import store
from modelvault.trust import TrustPolicy, add_publisher, require_revocations
from modelvault.trustupdates import install

_POLICY = click.option("--trust", type=FILE, help="Trust policy. Default: $MODELVAULT_HOME/trust.toml.")


@click.group("trust")
def command() -> None:
    """Say which publishers may vouch for which models on this host. Without a policy nothing loads."""


@command.command(epilog="Example: modelvault trust add acme.pub --name acme --models 'fraud-*'")
@click.argument("keys", nargs=-1, required=True)
@click.option("--name", help="Publisher's name. Default: the first key's file name.")
@click.option("--models", multiple=True, required=True, metavar="GLOB", help="Model names it may seal. Repeatable.")
@click.option("--threshold", default=1, show_default=True, help="How many of KEYS must have signed.")
@click.option("--minimum-version", default="0", help="Refuse older versions of its models.")
@_POLICY
@json_option
def add(
    keys: tuple[str, ...],
    name: str | None,
    models: tuple[str, ...],
    threshold: int,
    minimum_version: str,
    trust: Path | None,
    as_json: bool,
) -> None:
    """Trust a publisher that holds KEYS (public keys: names or paths). Comments in the policy stay."""
    paths = [store.find("publisher", key, ".pub") for key in keys]
    path, title = trust or trust_path(), name or paths[0].name.removesuffix(".pub")
    publisher = add_publisher(path, title, paths, models=list(models), threshold=threshold, minimum=minimum_version)
    if as_json:
        print_json({"policy": str(path), "publisher": publisher.to_dict()})
        return
    click.echo(f"{path}: publisher {title} may seal {', '.join(models)}")
    for key in publisher.keys:
        click.echo(f"  {key.fingerprint}")


@command.command(epilog="Example: modelvault trust revocations revocations.json --key acme-revoker.pub --max-age 72")
@click.argument("place", metavar="PATH|URL")
@click.option("--key", "keys", multiple=True, required=True, metavar="KEY", help="A key that may sign it. Repeatable.")
@click.option("--threshold", default=1, show_default=True, help="How many of the keys must have signed.")
@click.option("--max-age", "hours", type=int, metavar="HOURS", help="Load nothing once the list is older.")
@_POLICY
def revocations(place: str, keys: tuple[str, ...], threshold: int, hours: int | None, trust: Path | None) -> None:
    """Obey the revocation list at a path or fsspec URL. From then on nothing loads without it."""
    policy = trust or trust_path()
    location = place if remote.is_url(place) else _seen_from(policy.parent.absolute(), Path(place).absolute())
    files = [store.find("publisher", key, ".pub") for key in keys]
    require_revocations(policy, location, files, threshold=threshold, max_age_hours=hours)
    click.echo(f"{policy}: obeys {remote.display(location)}{f', at most {hours} hours old' if hours else ''}")


def _seen_from(folder: Path, path: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


@command.command(epilog="Example: modelvault trust follow acme.1.handover")
@click.argument("handover", type=FILE)
@click.option("--publisher", metavar="NAME", help="Its name in the trust policy. Default: as the hand-over says.")
@_POLICY
def follow(handover: Path, publisher: str | None, trust: Path | None) -> None:
    """Take a publisher's new keys, if its old ones signed them."""
    data = _files.read_bytes(handover, limit=MAX_HANDOVER)
    if publisher is None:
        payload = Envelope.from_bytes(data, str(handover), limit=MAX_HANDOVER).payload
        publisher = Handover.from_bytes(payload, str(handover)).publisher
    followed = install(trust or trust_path(), publisher, data, str(handover))
    click.echo(f"publisher {publisher}: hand-over {followed.handover} followed, {followed.threshold} signature(s) of")
    for key in followed.keys:
        click.echo(f"  {key.fingerprint}")


@command.command("list", epilog="Example: modelvault trust list")
@_POLICY
@json_option
def show(trust: Path | None, as_json: bool) -> None:
    """Show the trust policy."""
    path = trust or trust_path()
    policy = TrustPolicy.read(path)
    if as_json:
        publishers = [p.to_dict() for p in policy.publishers]
        print_json({"policy": str(path), "publishers": publishers, "audit_key": policy.audit_key})
        return
    rows = [
        (
            p.name if n == 0 else "",
            f"{p.threshold} of {len(p.keys)}" if n == 0 else "",
            ",".join(p.models),
            k.fingerprint,
        )
        for p in policy.publishers
        for n, k in enumerate(p.keys)
    ]
    print_table(["publisher", "needs", "models", "key"], rows)
