"""modelvault seal"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelvault.cli.common import (
    FILE,
    Passphrase,
    allowed_line,
    ask_passphrase,
    json_option,
    passphrase_option,
    print_fields,
    print_json,
    progress_bar,
    read_arrays,
    size,
)
from modelvault.cli.fingerprints import Planning, load_issuer, measured_on
from modelvault.defaults import DEFAULT
from modelvault.envelopes import InputEnvelope
from modelvault.errors import FileError, FormatError, KeyUnavailable
from modelvault.keys import store
from modelvault.keys.remote import Wrapper
from modelvault.oms import SignedModel
from modelvault.policy import Terms, read_terms

if TYPE_CHECKING:
    from modelvault.watermark.embedding import Plan


@click.command(
    "seal",
    epilog="Examples: modelvault seal model.onnx   |   modelvault seal bundle/ -o fraud.mvlt --to bank.pub "
    "--name fraud --version 2.1 --asset labels.json",
)
@click.argument("model", type=FILE)
@click.option("-o", "--output", type=FILE, help="Default: MODEL with the ending .mvlt.")
@click.option("--to", "recipients", multiple=True, metavar="KEY", help="Recipient key: name or path. Repeatable.")
@click.option("--sign", "signers", multiple=True, metavar="KEY", help="Publisher key: name or path. Repeatable.")
@click.option(
    "--own", metavar="KEY", help="The publisher's own recipient key. Default: NAME.own beside the signing key."
)
@click.option("--name", help="Model name in the statement. Default: the file's name.")
@click.option("--version", default="1", show_default=True, help="One to four numbers joined by dots.")
@click.option("--asset", "assets", multiple=True, type=FILE, help="A file to seal beside the model. Repeatable.")
@click.option("--policy", type=FILE, help="TOML: terms for every recipient (docs/LICENCES.md).")
@click.option("--watermark", metavar="KEY", help="Mark the weights with this owner's secret: name or path.")
@click.option("--watermark-payload", metavar="TEXT|HEX", help="At most 16 bytes. Default: name and version.")
@click.option("--watermark-inputs", type=FILE, metavar="FILE.npz", help="Real inputs to measure the marks' drift on.")
@click.option("--fingerprint", metavar="KEY", help="Give each recipient a copy of its own, traceable by this owner.")
@click.option("--fingerprint-for", "only", metavar="KEY", help="Mark the whole file for this one recipient instead.")
@click.option("--registry", type=FILE, help="The owner's registry. Default: under $MODELVAULT_HOME/registries.")
@click.option("--colluders", type=click.IntRange(1, 8), default=3, show_default=True, help="Blended copies to trace.")
@click.option(
    "--recipients-expected",
    "expected",
    type=click.IntRange(1, 1_000_000),
    default=1000,
    show_default=True,
    help="Among how many recipients colluders are to be traced.",
)
@click.option(
    "--calibrate",
    multiple=True,
    type=FILE,
    metavar="NPZ",
    help="Representative inputs by name: sessions reject calls outside their range. Repeatable.",
)
@click.option("--model-signature", type=FILE, help="OpenSSF signature of the folder MODEL: checked, then recorded.")
@click.option("--model-key", "model_keys", multiple=True, metavar="KEY", help="Public key that made it. Repeatable.")
@click.option("--public-io", is_flag=True, help="Show input and output names and shapes to everybody.")
@click.option("--keep-docs", is_flag=True, help="Keep doc strings, exporters' notes and inner names.")
@click.option("--allow", multiple=True, metavar="RULE", help="Seal in spite of this scan rule, on record. Repeatable.")
@click.option("--dry-run", is_flag=True, help="Check everything, write nothing.")
@click.option("--force", is_flag=True, help="Replace an existing output file.")
@passphrase_option
@json_option
def command(
    model: Path,
    output: Path | None,
    recipients: tuple[str, ...],
    signers: tuple[str, ...],
    own: str | None,
    name: str | None,
    version: str,
    assets: tuple[Path, ...],
    policy: Path | None,
    watermark: str | None,
    watermark_payload: str | None,
    watermark_inputs: Path | None,
    fingerprint: str | None,
    only: str | None,
    registry: Path | None,
    colluders: int,
    expected: int,
    calibrate: tuple[Path, ...],
    model_signature: Path | None,
    model_keys: tuple[str, ...],
    public_io: bool,
    keep_docs: bool,
    allow: tuple[str, ...],
    dry_run: bool,
    force: bool,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Encrypt and sign MODEL (an ONNX file, or a folder that holds one) for the named recipients.

    Without --to, the recipient key named "default" is used where there is one.
    """
    from modelvault.sealing import seal
    from modelvault.sources import find_model

    target = output or model.parent / f"{model.name.removesuffix('.onnx')}.mvlt"
    if target.exists() and not force and not dry_run:
        raise FileError(f"{target}: exists already")
    if (model_signature is None) != (not model_keys):
        raise click.UsageError("--model-signature and --model-key go together")
    names = signers or (DEFAULT,)
    ask = ask_passphrase(passphrase_file)
    keys = [store.load_publisher(n, ask) for n in names]
    plan = slots = copy = None
    if only is not None and fingerprint is None:
        raise click.UsageError("--fingerprint-for goes with --fingerprint")
    wrapped = _recipients(recipients if only is None else (only,), ask)
    if watermark is not None:
        default = f"{name or find_model(model).stem} {version}".encode(errors="replace")[:16].decode(errors="ignore")
        plan = _mark(model, watermark, watermark_payload or default, watermark_inputs, ask, shared=bool(fingerprint))
    if fingerprint is not None:
        names_of = dict(zip((r.fingerprint for r in wrapped), recipients or (only or DEFAULT,), strict=False))
        planning = Planning(load_issuer(fingerprint, registry, ask), names_of, find_model(model), watermark_inputs)
        if only is None:
            slots = planning.slots(colluders, expected, plan)
        else:
            copy = planning.own_file(wrapped[0].fingerprint, shared=plan is not None)
    with progress_bar("sealing", _bytes_in(model)) as step:
        report = seal(
            model,
            target,
            recipients=wrapped,
            signers=keys,
            own=store.load_recipient_public(own or store.own_of(names[0], ".pub"), ask),
            name=name,
            version=version,
            assets=assets,
            policy=read_terms(policy) if policy else Terms(),
            watermark=plan,
            fingerprint=slots,
            own_copy=copy,
            guard=_envelope(calibrate),
            signed=_signed(model, model_signature, model_keys),
            public_io=public_io,
            keep_docs=keep_docs,
            allow=allow,
            dry_run=dry_run,
            progress=step,
        )
    if plan is not None and not dry_run:
        plan.record(find_model(model).name).save()
    if as_json:
        print_json(report.to_dict() | {"dry_run": dry_run, "recipients": list(report.recipients)})
        return
    print_fields(
        [
            ("would seal" if dry_run else "sealed", target),
            ("model", f"{report.statement.name} {report.statement.version}"),
            ("weights", f"{report.tensors} tensors, {size(report.region)}"),
            ("assets", ", ".join(report.assets) or "none"),
            ("watermark", "none" if plan is None else f"strength {plan.strength}, {plan.robustness}"),
            ("fingerprints", [slots.summary, slots.reach] if slots else copy.summary if copy else "none"),
            ("scan", allowed_line(report.statement.allowed)),
            ("signed by", list(report.statement.publishers)),
            ("granted to", list(report.recipients)),
        ]
    )


def _mark(model: Path, owner: str, payload: str, inputs: Path | None, ask: Passphrase, *, shared: bool) -> "Plan":
    from modelvault.sources import find_model
    from modelvault.watermark import embedding

    return embedding.make_plan(
        find_model(model),
        store.load_owner(owner, ask),
        payload=embedding.parse_payload(payload),
        **measured_on(inputs),
        budget=embedding.Budget().shared() if shared else None,
    )


def _envelope(files: tuple[Path, ...]) -> InputEnvelope | None:
    if not files:
        return None
    from modelvault.guards import calibrate

    samples = [read_arrays(path) for path in files]
    for path, sample in zip(files, samples, strict=True):
        if not isinstance(sample, dict):
            raise FormatError(f"{path}: expected an .npz with the inputs' names")
    return calibrate(samples)


def _signed(model: Path, signature: Path | None, keys: tuple[str, ...]) -> SignedModel | None:
    if signature is None:
        return None
    return SignedModel.verified(model, signature, [store.load_publisher_public(key) for key in keys])


def _recipients(names: tuple[str, ...], ask: Passphrase) -> list[Wrapper]:
    if names:
        return [store.load_recipient_public(n, ask) for n in names]
    try:
        return [store.load_recipient_public(DEFAULT)]
    except KeyUnavailable:
        return []


def _bytes_in(model: Path) -> int:
    """About what there is to seal: what stands beside the model file may belong to it."""
    folder = model if model.is_dir() else model.parent
    return sum(p.stat().st_size for p in folder.glob("*") if p.is_file()) if folder.is_dir() else 0
