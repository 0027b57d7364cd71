"""The worked example of docs/WATERMARK.md is what the code does, to the bit wherever it is no floating-point sum."""

import base64
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

VECTORS = Path(__file__).parent.parent / "vectors"


def rebuilt() -> Any:
    spec = importlib.util.spec_from_file_location("make_watermark", VECTORS / "make_watermark.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build()


def test_the_vectors_are_what_the_code_does() -> None:
    kept, now = json.loads((VECTORS / "watermark.json").read_text()), rebuilt()
    assert now.pop("z") == pytest.approx(kept.pop("z"), rel=1e-3)
    for old, new in zip(kept["tensors"], now["tensors"], strict=True):
        a, b, data = (base64.b64decode(t) for t in (old.pop("marked"), new.pop("marked"), old["data"]))
        if old["dtype"] == "FLOAT":
            was, marked, again = (np.frombuffer(x, "<f4") for x in (data, a, b))
            np.testing.assert_allclose(again, marked, atol=1e-6 * float(np.abs(was).max()))
            assert not np.array_equal(was, marked)
        else:
            assert a == b
    assert now == kept
