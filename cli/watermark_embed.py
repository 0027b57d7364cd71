"""modelvault watermark embed"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelvault.cli.common import (
    FILE,
    ask_passphrase,
    bytes_in,
    json_option,
    passphrase_option,
    print_fields,
    print_json,
    progress_bar,
)
from modelvault.cli.watermark_verify import OWNER
from modelvault.errors import FileError
from modelvault.keys import store

if TYPE_CHECKING:
    from modelvault.watermark.embedding import EmbedReport


@click.command(
    epilog="Examples: modelvault watermark embed fraud.onnx -o fraud-marked.onnx --payload 'bank 2.1'   |   "
    "modelvault watermark embed fraud.onnx -o m.onnx --inputs samples.npz --strength 0.002",
)
@click.argument("model", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="Where to write the marked model.")
@OWNER
@click.option("--payload", default="", metavar="TEXT|HEX", help="At most 16 bytes of text, or 32 hex digits.")
@click.option("--strength", default="auto", show_default=True, help="Change of a weight over its scale, e.g. 0.003.")
@click.option("--inputs", type=FILE, metavar="FILE.npz", help="Real inputs to measure drift on. Default: random ones.")
@click.option("--min-cosine", default=0.9995, show_default=True, help="Least cosine of outputs, before and after.")
@click.option("--min-agreement", default=0.995, show_default=True, help="Least arg-max agreement (of ties: aimed at).")
@click.option("--no-check", is_flag=True, help="Do not run the model to measure drift.")
@click.option("--force", is_flag=True, help="Replace an existing output file.")
@passphrase_option
@json_option
def embed(
    model: Path,
    output: Path,
    owner: str,
    payload: str,
    strength: str,
    inputs: Path | None,
    min_cosine: float,
    min_agreement: float,
    no_check: bool,
    force: bool,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Write a copy of MODEL whose weights carry the owner's mark.

    The outputs are compared with the original's, and the mark is refused where they differ too much. A private
    record of the mark is kept under $MODELVAULT_HOME/watermarks.
    """
    from modelvault.watermark import embedding
    from modelvault.watermark.fidelity import read_inputs

    if output.exists() and not force:
        raise FileError(f"{output}: exists already")
    chosen = _strength(strength)
    secret = store.load_owner(owner, ask_passphrase(passphrase_file))
    with progress_bar("marking", bytes_in(model)) as step:
        plan = embedding.make_plan(
            model,
            secret,
            payload=embedding.parse_payload(payload),
            strength=chosen,
            inputs=read_inputs(inputs) if inputs else None,
            inputs_name=inputs.name if inputs else "",
            budget=embedding.Budget(cosine=min_cosine, agreement=min_agreement),
            check=not no_check,
            progress=step,
        )
        report = embedding.embed(model, output, plan)
    if as_json:
        print_json(report.to_dict())
    else:
        _print_embedded(report)


def _strength(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1e-6 <= value <= 0.1:
        raise click.UsageError(f"--strength: expected auto or a number from 0.000001 to 0.1, got {text[:20]!r}")
    return value


def _print_embedded(report: "EmbedReport") -> None:
    facts = report.to_dict()
    drift = facts["drift"]
    measured = [f"cosine {drift['cosine']:.6f}", f"arg-max agreement {drift['argmax_agreement']:.4f}"] if drift else []
    if drift:
        measured[-1] += f", without ties {drift['argmax_agreement_without_ties']:.4f}"
        measured += [f"largest difference {drift['max_difference']:.4f} of the output's rms"]
        measured += [f"mean difference {drift['mean_difference']:.5f}", f"on {drift['inputs']}"]
    worst = max(facts["changes"].values(), default=0.0)
    print_fields(
        [
            ("marked", report.output),
            ("owner", facts["commitment"]["owner"]),
            ("commitment", facts["commitment"]["commitment"]),
            ("carriers", f"{facts['carriers']} tensors, {facts['weights']} weights"),
            ("left out", facts["left_out"] or "none"),
            ("strength", f"{facts['strength']}; largest relative change of a tensor {worst:.4f}"),
            ("robustness", f"{facts['robustness']}: expected score {facts['expected_z']} after 10 % noise"),
            ("drift", measured or "not measured"),
            ("record", report.record),
        ]
    )
