"""Applications that nobody here wrote, with only their session class swapped: the same results from sealed models."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import MODELS, Parties

import modelvault.ort
from modelvault.keys import store

pytestmark = [pytest.mark.real_models, pytest.mark.filterwarnings("ignore")]


def application(name: str, required_by: str = "apps") -> Any:
    """The package, or a skip with the reason; MODELVAULT_REQUIRE naming ``required_by`` turns that into a failure."""
    try:
        return __import__(name, fromlist=["x"])
    except ImportError as error:
        message = f"{name} is not installed ({error})"
        if required_by in os.environ.get("MODELVAULT_REQUIRE", "").split(","):
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture
def home(parties: Parties) -> Parties:
    """Default keys and trust in the home folder: what an application's environment has."""
    for role, key in (("recipient", parties.customer), ("host", parties.host)):
        store.write_pair(store.folder(role), "default", key.to_pem(None), key.public.to_pem())
    shutil.copytree(parties.folder / "trusted", store.home() / "trusted")
    shutil.copy(parties.folder / "trust.toml", store.home() / "trust.toml")
    return parties


def audited_loads(parties: Parties) -> int:
    records: list[Any] = []
    modelvault.verify_log(store.home() / "audit" / "audit.log", parties.host.public, visit=records.append)
    return [r.event for r in records].count("load.done")


def test_rapidocr_reads_a_rendered_image(home: Parties, monkeypatch: pytest.MonkeyPatch) -> None:
    rapidocr = application("rapidocr_onnxruntime")
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (640, 120), "white")
    ImageDraw.Draw(image).text((20, 30), "Sealed models read 2026", fill="black", font=ImageFont.load_default(44))
    picture = np.asarray(image)
    names = ("det", "cls", "rec")
    plain, _ = rapidocr.RapidOCR(**{f"{n}_model_path": str(MODELS / f"ppocr-{n}.onnx") for n in names})(picture)
    sealed = {f"{n}_model_path": str(home.seal(MODELS / f"ppocr-{n}.onnx", f"{n}.mvlt")) for n in names}
    engine = sys.modules["rapidocr_onnxruntime.utils.infer_engine"]
    monkeypatch.setattr(engine, "InferenceSession", modelvault.ort.InferenceSession)
    read, _ = rapidocr.RapidOCR(**sealed)(picture)
    assert [text for _, text, _ in read] == [text for _, text, _ in plain]
    assert "models read 2026" in " ".join(text for _, text, _ in read)
    assert np.allclose([float(score) for *_, score in read], [float(score) for *_, score in plain], rtol=1e-3)
    assert audited_loads(home) == 3


def test_magika_names_files(home: Parties, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    magika = application("magika")
    package = Path(magika.__file__).parent
    model = package / "models" / "standard_v3_3"
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "model.onnx").unlink()
    home.seal(model / "model.onnx", "magika.mvlt").rename(folder / "model.onnx")
    files = [
        Path(__file__),
        package / "magika.py",
        model / "model.onnx",
        Path(sys.executable),
        folder / "config.min.json",
    ]
    plain = magika.Magika(model_dir=model).identify_paths(files)
    monkeypatch.setattr(sys.modules["magika.magika"], "rt", modelvault.ort)
    sealed = magika.Magika(model_dir=folder).identify_paths(files)
    assert [r.output.label for r in sealed] == [r.output.label for r in plain]
    assert sealed[0].output.label == "python"
    assert np.allclose([r.score for r in sealed], [r.score for r in plain], rtol=1e-4)
    assert audited_loads(home) == 1


def test_silero_finds_speech(home: Parties, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Speech by espeak-ng between silences; silero_vad brings torch, several GB, so it is not installed by default."""
    silero = application("silero_vad", "silero")
    soundfile = application("soundfile", "silero")
    speaker = shutil.which("espeak-ng")
    if speaker is None:
        pytest.skip("espeak-ng is not installed")
    torch = application("torch", "silero")

    subprocess.run([speaker, "-w", str(tmp_path / "s.wav"), "the model stays sealed"], check=True)
    samples, rate = soundfile.read(tmp_path / "s.wav", dtype="float32")
    times = np.arange(0, len(samples) / rate, 1 / 16000)
    speech = np.interp(times, np.arange(len(samples)) / rate, samples).astype(np.float32)
    quiet = np.zeros(16000, np.float32)
    audio = torch.from_numpy(np.concatenate([quiet, speech, quiet]))
    wrapper = sys.modules["silero_vad.utils_vad"].OnnxWrapper
    plain = silero.get_speech_timestamps(audio, wrapper(str(MODELS / "silero-vad.onnx"), True))
    path = home.seal(MODELS / "silero-vad.onnx", "vad.mvlt")
    swapped: ModuleType = modelvault.ort
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", swapped)
        sealed_model = wrapper(str(path), True)
    sealed = silero.get_speech_timestamps(audio, sealed_model)
    assert sealed == plain
    assert plain
    assert 14000 < plain[0]["start"] < 18000
    assert audited_loads(home) == 1
