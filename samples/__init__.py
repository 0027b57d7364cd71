"""A small real model, and short scripts to copy from."""

from pathlib import Path

MODEL = Path(__file__).parent / "ppocr-cls.onnx"
INPUT = ("x", (1, 3, 48, 192))
"""The model's input: name, and the float32 shape of one 48 x 192 image."""
