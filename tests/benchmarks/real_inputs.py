"""Inputs of the kind that each benchmark model was made for: photographs, files, sound, token numbers."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Feed = dict[str, Any]
RUNS = 16


def _photographs() -> list[Any]:
    from sklearn.datasets import load_sample_images

    return [np.asarray(i, np.float32) / 127.5 - 1 for i in load_sample_images().images]  # type: ignore[no-untyped-call]


def _crops(height: int, width: int) -> list[Any]:
    rng, found = np.random.default_rng(7), []
    for number in range(RUNS):
        picture = _photographs()[number % 2]
        top, left = (rng.integers(0, n - size) for n, size in zip(picture.shape, (height, width), strict=False))
        found.append(np.ascontiguousarray(picture[top : top + height, left : left + width].transpose(2, 0, 1)[None]))
    return found


def _text(width: int) -> list[Any]:
    """Lines of printed words, dark on light, slightly uneven in size, place and grey, 48 pixels high."""
    from PIL import Image, ImageDraw, ImageFont

    rng, found = np.random.default_rng(11), []
    words = [p.stem for p in sorted(Path(os.__file__).parent.glob("*.py")) if p.stem.isalpha()]
    for _ in range(RUNS):
        paper, ink = int(rng.integers(200, 256)), int(rng.integers(0, 80))
        image = Image.new("L", (width, 48), paper)
        line = " ".join(rng.choice(words, 3))
        font = ImageFont.load_default(int(rng.integers(24, 34)))
        ImageDraw.Draw(image).text((int(rng.integers(2, 12)), int(rng.integers(2, 10))), line, ink, font)
        grey = np.asarray(image, np.float32) + rng.normal(0, 4, (48, width)).astype(np.float32)
        found.append(np.repeat(grey[None, None] / 127.5 - 1, 3, axis=1))
    return found


def _files() -> list[Feed]:
    """The first and last 1024 bytes of files of Python's own library, as magika reads them."""
    paths = sorted(Path(sys.prefix).rglob("*.*"), key=lambda p: p.name)
    paths = [p for p in paths if p.is_file() and p.stat().st_size > 4096][:: max(1, len(paths) // 200)][: 4 * RUNS]
    ends = [(data[:1024], data[-1024:]) for data in (p.read_bytes() for p in paths)]
    return [{"bytes": np.frombuffer(a + b, np.uint8).astype(np.int32)[None]} for a, b in ends]


def _tokens(names: tuple[str, ...]) -> list[Feed]:
    rng, feeds = np.random.default_rng(8), []
    for _ in range(RUNS):
        ids = rng.integers(1000, 30_000, (1, 32))
        ids[0, 0], ids[0, -1] = 101, 102
        known = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        feeds.append({n: known[n] for n in names})
    return feeds


def _sound() -> list[Feed]:
    """Half a second of voiced sound, gliding in pitch, under noise of several strengths."""
    rng, feeds, time = np.random.default_rng(9), [], np.arange(512) / 16_000
    for number in range(4 * RUNS):
        pitch = 90 + 10 * number
        voice = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 12)) * 0.1 * (number % 4)
        sound = (voice + 0.02 * rng.standard_normal(512)).astype(np.float32)[None]
        feeds.append({"input": sound, "state": np.zeros((2, 1, 128), np.float32), "sr": np.array(16_000, np.int64)})
    return feeds


_INPUTS: dict[str, tuple[str, Callable[[], list[Feed]]]] = {
    "minilm-l3": ("16 sequences of 32 random word pieces", lambda: _tokens(("input_ids", "attention_mask"))),
    "minilm-int8": (
        "16 sequences of 32 random word pieces",
        lambda: _tokens(("input_ids", "attention_mask", "token_type_ids")),
    ),
    "ppocr-rec": ("16 lines of printed words, 48 x 320", lambda: [{"x": c} for c in _text(320)]),
    "ppocr-cls": ("16 lines of printed words, 48 x 192", lambda: [{"x": c} for c in _text(192)]),
    "ppocr-det": ("16 crops of two photographs, 320 x 320", lambda: [{"x": c} for c in _crops(320, 320)]),
    "magika": ("64 files of a Python installation", _files),
    "silero-vad": ("64 frames of voiced sound and noise", _sound),
}


def inputs(model: str) -> tuple[str, list[Feed]]:
    """What the inputs are, and the inputs."""
    described, make = _INPUTS[model]
    return described, make()
