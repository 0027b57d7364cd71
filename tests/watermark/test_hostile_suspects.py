"""Broken and hostile suspect files end in one of our errors, never in another exception or in more memory."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks import quantise, structure
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelvault.errors import FormatError, ModelVaultError
from modelvault.watermark.suspects import open_suspect
from watermark.models import mlp


class Samples(dict[str, bytes]):
    """Whole files by name; a failing example need not print them."""

    def __repr__(self) -> str:
        return "Samples"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """One small valid file of each kind."""
    folder = tmp_path_factory.mktemp("valid")
    model = mlp(folder / "m.onnx", width=32, hidden=64, classes=32)
    arrays: dict[str, Any] = {"a": np.ones((32, 64), np.float32), "b": np.ones((64, 32), np.float16)}
    np.savez(folder / "w.npz", allow_pickle=False, **arrays)
    np.savez_compressed(folder / "c.npz", allow_pickle=False, **arrays)
    structure.as_safetensors(arrays, folder / "w.safetensors")
    quantise.int4(model, folder / "q.onnx")
    return Samples({p.name: p.read_bytes() for p in folder.iterdir()})


@pytest.mark.parametrize("name", ["m.onnx", "q.onnx", "w.npz", "c.npz", "w.safetensors"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.none() | st.integers(0, 10_000),
)
def test_damaged_files(
    samples: Samples, tmp_path: Path, name: str, edits: list[tuple[int, int]], cut: int | None
) -> None:
    content = bytearray(samples[name])
    for place, value in edits:
        content[place % len(content)] = value
    if cut is not None:
        del content[cut:]
    path = tmp_path / "suspect"
    path.write_bytes(content)
    try:
        for tensor in open_suspect(path):
            assert tensor.read().shape == tensor.shape
    except ModelVaultError as error:
        assert str(error)


def test_an_array_that_claims_more_than_it_has(tmp_path: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (2**15, 2**15)})
    with zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", head.getvalue() + bytes(2**20))
    with pytest.raises(FormatError, match="more than it can have"):
        open_suspect(tmp_path / "b.npz")
