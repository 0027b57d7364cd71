"""Inputs of the kind that each benchmark model was made for: photographs, files, sound, token numbers."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

Feed = dict[str, Any]
PICTURES, LINES, FILES, FRAMES, SEQUENCES, TOKENS = 16, 64, 256, 256, 256, 16


def _photographs() -> list[Any]:
    from sklearn.datasets import load_sample_images

    return [np.asarray(i, np.float32) / 127.5 - 1 for i in load_sample_images().images]  # type: ignore[no-untyped-call]


def _crops(height: int, width: int) -> list[Any]:
    rng, found = np.random.default_rng(7), []
    for number in range(PICTURES):
        picture = _photographs()[number % 2]
        top, left = (rng.integers(0, n - size) for n, size in zip(picture.shape, (height, width), strict=False))
        found.append(np.ascontiguousarray(picture[top : top + height, left : left + width].transpose(2, 0, 1)[None]))
    return found


def _text(width: int) -> list[Any]:
    """Lines of printed words, dark on light, slightly uneven in size, place and grey, 48 pixels high."""
    from PIL import Image, ImageDraw, ImageFont

    rng, found = np.random.default_rng(11), []
    words = [p.stem for p in sorted(Path(os.__file__).parent.glob("*.py")) if p.stem.isalpha()]
    for _ in range(LINES):
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
    paths = [p for p in paths if p.is_file() and p.stat().st_size > 4096]
    paths = paths[:: max(1, len(paths) // FILES)][:FILES]
    ends = [(data[:1024], data[-1024:]) for data in (p.read_bytes() for p in paths)]
    return [{"bytes": np.frombuffer(a + b, np.uint8).astype(np.int32)[None]} for a, b in ends]


def _tokens(names: tuple[str, ...]) -> list[Feed]:
    rng, feeds = np.random.default_rng(8), []
    for _ in range(SEQUENCES):
        ids = rng.integers(1000, 30_000, (1, TOKENS))
        ids[0, 0], ids[0, -1] = 101, 102
        known = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        feeds.append({n: known[n] for n in names})
    return feeds


def _vowels(rate: int) -> Any:
    """Syllables of five vowels at 120 Hz, gliding in pitch, with pauses; 24 harmonics under three formants each."""
    formants = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))
    time = np.arange(int(rate * FRAMES * 0.0165)) / rate
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * time) + 10 * np.sin(2 * np.pi * 2.1 * time)
    phase, spoken = 2 * np.pi * np.cumsum(pitch) / rate, (time * 4).astype(int) * 7919 % len(formants)
    sound = np.zeros(len(time))
    for vowel, peaks in enumerate(formants):
        for k in range(1, 25):
            gain = sum(g / (1 + ((k * pitch - f) / 80) ** 2) for f, g in zip(peaks, (1, 0.6, 0.3), strict=True))
            sound += (spoken == vowel) * (k * pitch < rate / 2) * gain * np.sin(k * phase)
    sound *= np.sqrt(np.sin(np.pi * (time * 4 % 1))) * (time * 0.8 % 1 < 0.7)
    noise = 0.003 * np.random.default_rng(9).standard_normal(len(time))
    return (0.2 * sound / np.abs(sound).max() + noise).astype(np.float32)


def _sound(original: Path) -> list[Feed]:
    """Two streams, of 16 and 8 kHz, frame by frame, each with the state that the original has come to by then."""
    session, feeds = onnxruntime.InferenceSession(original), []
    for rate, frame, context in ((16_000, 512, 64), (8000, 256, 32)):
        sound, state = _vowels(rate), np.zeros((2, 1, 128), np.float32)
        for n in range(1, FRAMES // 2 + 1):
            piece = sound[n * frame - context : (n + 1) * frame][None]
            feeds.append({"input": piece, "state": state, "sr": np.array(rate, np.int64)})
            state = np.asarray(session.run(None, feeds[-1])[1])
    return feeds


_INPUTS: dict[str, tuple[str, Callable[[Path], list[Feed]]]] = {
    "minilm-l3": (
        f"{SEQUENCES} sequences of {TOKENS} random word pieces",
        lambda _: _tokens(("input_ids", "attention_mask")),
    ),
    "minilm-int8": (
        f"{SEQUENCES} sequences of {TOKENS} random word pieces",
        lambda _: _tokens(("input_ids", "attention_mask", "token_type_ids")),
    ),
    "ppocr-rec": (f"{LINES} lines of printed words, 48 x 320", lambda _: [{"x": c} for c in _text(320)]),
    "ppocr-cls": (f"{LINES} lines of printed words, 48 x 192", lambda _: [{"x": c} for c in _text(192)]),
    "ppocr-det": (f"{PICTURES} crops of two photographs, 320 x 320", lambda _: [{"x": c} for c in _crops(320, 320)]),
    "magika": (f"{FILES} files of a Python installation", lambda _: _files()),
    "silero-vad": (f"{FRAMES} frames of synthetic vowels, half 8 kHz", _sound),
}


def inputs(original: Path) -> tuple[str, list[Feed]]:
    """What the inputs are, and the inputs."""
    described, make = _INPUTS[original.stem]
    return described, make(original)
