"""modelvault watermark"""

import click

from modelvault.cli.watermark_embed import embed
from modelvault.cli.watermark_evidence import evidence
from modelvault.cli.watermark_trace import trace
from modelvault.cli.watermark_verify import verify


@click.group("watermark", epilog="Example: modelvault watermark embed fraud.onnx -o fraud-marked.onnx")
def command() -> None:
    """Mark a model's weights, and find the mark again in a copy."""


for _part in (embed, verify, evidence, trace):
    command.add_command(_part)
